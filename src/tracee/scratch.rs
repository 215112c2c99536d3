//! The scratch area inside a process: the code that executes batches and leads home from them, and room for their tables,
//! their data and a shelter.

/// `rbx`: table, `rbp`: number of calls.
const LOOP: [u8; 42] = [
    0x48, 0x8b, 0x03, // mov rax,[rbx]
    0x48, 0x8b, 0x7b, 0x08, // mov rdi,[rbx+8]
    0x48, 0x8b, 0x73, 0x10, // mov rsi,[rbx+16]
    0x48, 0x8b, 0x53, 0x18, // mov rdx,[rbx+24]
    0x4c, 0x8b, 0x53, 0x20, // mov r10,[rbx+32]
    0x4c, 0x8b, 0x43, 0x28, // mov r8,[rbx+40]
    0x4c, 0x8b, 0x4b, 0x30, // mov r9,[rbx+48]
    0x0f, 0x05, // syscall
    0x48, 0x89, 0x43, 0x38, // mov [rbx+56],rax
    0x48, 0x83, 0xc3, 0x40, // add rbx,64
    0x48, 0xff, 0xcd, // dec rbp
    0x75, 0xd6, // jnz back to the start
];

/// `int3`: the end of a skeleton's batch.
const TRAP: [u8; 1] = [0xcc];
/// `mov rsp, r12; ret`: the way home from a batch.
const HOME: [u8; 4] = [0x4c, 0x89, 0xe4, 0xc3];
/// `syscall; ret` and `mov eax, 15; syscall`.
const CALL: [u8; 3] = [0x0f, 0x05, 0xc3];
const RESTORE: [u8; 7] = [0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05];

/// Where they lie on the code page.
pub(super) const SHELTERED_AT: u64 = 64;
pub(super) const CALL_AT: u64 = 128;
pub(super) const RESTORE_AT: u64 = 144;

pub(super) const PAGE: u64 = 4096;

/// Where a scratch area is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There, or the call fails.
    Exactly(u64),
    /// There if nothing else is, otherwise where the kernel likes; 0: where the kernel likes.
    Rather(u64),
}

/// The scratch area inside the tracee.
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// Address of the code page.
    pub code: u64,
    /// Address of the table of calls.
    pub table: u64,
    /// Its length in bytes.
    pub table_len: usize,
    /// Address of the data.
    pub data: u64,
    /// Its length in bytes.
    pub data_len: usize,
    /// Bytes behind the data for the shelter of a thread; none in a skeleton.
    pub(super) shelter_len: usize,
    /// It is memory of the process's own ([`super::lent`]): without code and table.
    pub lent: bool,
}

impl Scratch {
    /// First byte and length of the whole area.
    pub fn range(&self) -> (u64, u64) {
        (self.code, self.shelter() + self.shelter_len as u64 - self.code)
    }

    /// Address of a `syscall` instruction on the code page.
    pub fn syscall(&self) -> u64 {
        self.code + CALL_AT
    }

    /// Where the shelter is.
    pub(super) fn shelter(&self) -> u64 {
        self.data + self.data_len as u64
    }
}

/// What lies where on the code page.
pub(super) fn pieces() -> [(u64, Vec<u8>); 4] {
    [
        (0, [&LOOP[..], &TRAP].concat()),
        (SHELTERED_AT, [&LOOP[..], &HOME].concat()),
        (CALL_AT, CALL.to_vec()),
        (RESTORE_AT, RESTORE.to_vec()),
    ]
}
