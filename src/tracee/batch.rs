//! A table of system calls with the data they point to, laid out for the scratch area of a tracee.
//!
//! ```text
//! scratch:  | code (1 page, r-x) | table: 64 bytes a call        | data                  | shelter |
//! a call:   | nr | a1 | a2 | a3 | a4 | a5 | a6 | result |
//! ```

use nix::errno::Errno;

use super::error::TraceeError;
use super::scratch::Scratch;

/// Bytes of one table entry.
pub(super) const ENTRY: usize = 64;

#[derive(Clone, Debug)]
struct Call {
    name: &'static str,
    nr: i64,
    args: [u64; 6],
    must_succeed: bool,
}

/// System calls to be executed in order, and the bytes they read and write.
#[derive(Clone, Debug)]
pub struct Batch {
    base: u64,
    room: usize,
    calls: Vec<Call>,
    data: Vec<u8>,
}

/// What a batch returned: results in order, and the data area after it ran.
#[derive(Debug)]
pub struct Outcome {
    /// Raw return values.
    pub results: Vec<i64>,
    base: u64,
    data: Vec<u8>,
}

impl Batch {
    /// An empty batch for this scratch area.
    pub fn new(scratch: &Scratch) -> Self {
        Batch { base: scratch.data, room: scratch.data_len, calls: Vec::new(), data: Vec::new() }
    }

    /// Adds a call that must succeed; `name` says which and what for, in errors. Returns its index.
    pub fn call(&mut self, name: &'static str, nr: i64, args: &[u64]) -> usize {
        self.add(name, nr, args, true)
    }

    /// Adds a call whose result the caller looks at.
    pub fn attempt(&mut self, name: &'static str, nr: i64, args: &[u64]) -> usize {
        self.add(name, nr, args, false)
    }

    fn add(&mut self, name: &'static str, nr: i64, args: &[u64], must_succeed: bool) -> usize {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        self.calls.push(Call { name, nr, args: all, must_succeed });
        self.calls.len() - 1
    }

    /// Places bytes in the data area and returns their address in the tracee (16-byte aligned).
    pub fn bytes(&mut self, bytes: &[u8]) -> u64 {
        self.data.resize(self.data.len().next_multiple_of(16), 0);
        let at = self.base + self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        at
    }

    /// Places a NUL-terminated string, of any bytes.
    pub fn string(&mut self, text: impl AsRef<[u8]>) -> u64 {
        let mut bytes = text.as_ref().to_vec();
        bytes.push(0);
        self.bytes(&bytes)
    }

    /// Room for an answer of `len` bytes.
    pub fn space(&mut self, len: usize) -> u64 {
        self.bytes(&vec![0; len])
    }

    /// Number of calls.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Whether another call with `data` bytes fits beside what is there.
    pub fn has_room(&self, scratch: &Scratch, calls: usize, data: usize) -> bool {
        (self.calls.len() + calls) * ENTRY <= scratch.table_len && self.data.len() + data + 64 <= self.room
    }

    /// `more` calls come behind it.
    pub(super) fn check_fits(&self, scratch: &Scratch, more: usize) -> Result<(), TraceeError> {
        let need = (self.calls.len() + more) * ENTRY;
        if need > scratch.table_len {
            return Err(TraceeError::ScratchFull { need, have: scratch.table_len });
        }
        if self.data.len() > self.room {
            return Err(TraceeError::ScratchFull { need: self.data.len(), have: self.room });
        }
        Ok(())
    }

    /// `last` comes behind it.
    pub(super) fn table(&self, last: Option<(i64, [u64; 6])>) -> Vec<u8> {
        let mut table = Vec::with_capacity((self.calls.len() + 1) * ENTRY);
        for (nr, args) in self.calls().chain(last) {
            table.extend_from_slice(&nr.to_le_bytes());
            args.iter().for_each(|a| table.extend_from_slice(&a.to_le_bytes()));
            table.extend_from_slice(&0u64.to_le_bytes());
        }
        table
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    pub(super) fn calls(&self) -> impl Iterator<Item = (i64, [u64; 6])> {
        self.calls.iter().map(|c| (c.nr, c.args))
    }

    pub(super) fn outcome(&self, tid: i32, results: Vec<i64>, data: Vec<u8>) -> Result<Outcome, TraceeError> {
        for (call, result) in self.calls.iter().zip(&results) {
            if call.must_succeed && (-4095..0).contains(result) {
                let detail = call.args.iter().map(|a| format!("{a:#x}")).collect::<Vec<_>>().join(", ");
                let source = Errno::from_raw(-(*result as i32));
                return Err(TraceeError::RemoteCall { tid, call: call.name, detail, source });
            }
        }
        Ok(Outcome { results, base: self.base, data })
    }
}

impl Outcome {
    /// The bytes at an address that [`Batch::space`] or [`Batch::bytes`] gave.
    pub fn at(&self, addr: u64, len: usize) -> &[u8] {
        let from = (addr - self.base) as usize;
        &self.data[from..from + len]
    }

    /// A 64-bit little-endian word of the data area.
    pub fn word(&self, addr: u64) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.at(addr, 8));
        u64::from_le_bytes(bytes)
    }

    /// A 32-bit little-endian word of the data area.
    pub fn half(&self, addr: u64) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.at(addr, 4));
        u32::from_le_bytes(bytes)
    }
}
