//! How a borrowed thread executes a batch, and how its tracer hears that it is done.

use super::Remote;
use crate::fault::Point;
use crate::tracee::batch::{Batch, ENTRY, Outcome};
use crate::tracee::error::TraceeError;
use crate::tracee::scratch::{SHELTERED_AT, Scratch};
use crate::tracee::shelter::Bell;
use crate::tracee::stop::Stop;
use crate::tracee::thread::Go;

impl Remote<'_> {
    /// Executes a batch: one round trip.
    pub fn run(&mut self, scratch: &Scratch, batch: &Batch) -> Result<Outcome, TraceeError> {
        batch.check_fits(scratch, usize::from(self.bell.is_some()))?;
        if !batch.data().is_empty() {
            self.write("writing call data", scratch.data, batch.data())?;
        }
        let results = if batch.is_empty() {
            Vec::new()
        } else if scratch.lent || (self.shelter.is_none() && self.site.sigtrap_ignored) {
            batch
                .calls()
                .map(|(nr, args)| self.single("a batched call", nr, args))
                .collect::<Result<_, _>>()?
        } else if let Some(shelter) = &self.shelter {
            let home = shelter.at;
            self.run_sheltered(scratch, batch, home)?
        } else {
            self.run_loop(scratch, batch)?
        };
        let mut data = vec![0; batch.data().len()];
        if !data.is_empty() {
            self.read("reading call data", scratch.data, &mut data)?;
        }
        batch.outcome(self.thread.0, results, data)
    }

    fn run_loop(&mut self, scratch: &Scratch, batch: &Batch) -> Result<Vec<i64>, TraceeError> {
        self.write("writing the table of calls", scratch.table, &batch.table(None))?;
        self.start(scratch.code, scratch, batch.len(), 0)?;
        self.thread.resume(Go::Free, 0)?;
        const STEP: &str = "executing a batch of system calls";
        let end = Stop::Signal(libc::SIGTRAP);
        self.wait_for(STEP, Go::Free, |s| s == end)?;
        // by `kill -TRAP` of somebody, in the middle of it: what was not called yet looks as if it had returned 0
        if self.is_of_somebody()? {
            return Err(TraceeError::UnexpectedStop { tid: self.thread.0, step: STEP, stop: end });
        }
        self.results(scratch, batch)
    }

    fn run_sheltered(
        &mut self,
        scratch: &Scratch,
        batch: &Batch,
        home: u64,
    ) -> Result<Vec<i64>, TraceeError> {
        const STEP: &str = "executing a batch of system calls";
        self.write("writing the table of calls", scratch.table, &batch.table(self.bell.map(Bell::call)))?;
        let calls = batch.len() + usize::from(self.bell.is_some());
        self.start(scratch.code + SHELTERED_AT, scratch, calls, home)?;
        self.point(Point::SourceCallBatch);
        match self.bell {
            Some(bell) => self.until_rung(scratch, batch, Stop::Signal(bell.signal))?,
            None => self.follow(STEP, calls)?,
        }
        self.point(Point::SourceCallBatch);
        self.results(scratch, batch)
    }

    /// Lets the batch run to its bell. The same signal may come from somebody else, and would have been ignored as well.
    fn until_rung(&mut self, scratch: &Scratch, batch: &Batch, rung: Stop) -> Result<(), TraceeError> {
        let bell = scratch.table + (batch.len() * ENTRY) as u64;
        loop {
            self.thread.resume(Go::Free, 0)?;
            self.point(Point::SourceCallBatch);
            self.wait_for("executing a batch of system calls", Go::Free, |s| s == rung)?;
            if self.thread.regs()?.rbx == bell {
                return Ok(());
            }
        }
    }

    /// Lets the next `calls` of a batch run, from entry to exit.
    fn follow(&mut self, step: &'static str, calls: usize) -> Result<(), TraceeError> {
        for _ in 0..2 * calls {
            self.point(Point::SourceCallBatch);
            self.thread.resume(Go::ToSyscall, 0)?;
            self.wait_for(step, Go::ToSyscall, |s| s == Stop::Syscall)?;
        }
        self.thread.to_trap(self.deadline()).map(drop)
    }

    /// Makes a descriptor in the process, works on it, and closes it. All that is one batch, in which a call copies the number
    /// from the result of the first to the argument of the last: if we are killed, the thread closes it on its way home.
    /// `pid`: as the process itself knows it.
    pub fn make_and_close<T>(
        &mut self,
        (name, nr, args): (&'static str, i64, [u64; 6]),
        (scratch, pid): (&Scratch, i32),
        work: impl FnOnce(i32) -> T,
    ) -> Result<T, TraceeError> {
        let Some(home) = self.shelter.as_ref().filter(|_| !scratch.lent).map(|shelter| shelter.at) else {
            let fd = self.must(name, nr, args)?;
            self.close_on_the_way(fd)?;
            let done = work(fd as i32);
            self.must("close", libc::SYS_close, [fd, 0, 0, 0, 0, 0])?;
            return Ok(done);
        };
        let (result, argument) = (scratch.table + 56, scratch.table + 2 * ENTRY as u64 + 8);
        let mut batch = Batch::new(scratch);
        batch.call(name, nr, &args);
        let both: Vec<u8> = [argument, 8, result, 8].into_iter().flat_map(u64::to_le_bytes).collect();
        let to = batch.bytes(&both);
        batch.call("process_vm_readv", libc::SYS_process_vm_readv, &[pid as u64, to, 1, to + 16, 1]);
        batch.call("close", libc::SYS_close, &[u64::MAX]);
        self.write("writing call data", scratch.data, batch.data())?;
        self.write("writing the table of calls", scratch.table, &batch.table(None))?;
        self.start(scratch.code + SHELTERED_AT, scratch, batch.len(), home)?;
        self.follow(name, 2)?;
        let made = self.results(scratch, &batch)?[0];
        let done = (made >= 0).then(|| work(made as i32));
        self.follow("closing what was made", 1)?;
        let results = self.results(scratch, &batch)?;
        // its number was not copied: the last call has closed nothing
        if made >= 0 && results[1] != size_of::<u64>() as i64 {
            self.must("close", libc::SYS_close, [made as u64, 0, 0, 0, 0, 0])?;
        }
        batch.outcome(self.thread.0, results, Vec::new())?;
        // a call that made nothing is an error of its outcome
        done.ok_or(TraceeError::Died { tid: self.thread.0, step: "making a descriptor" })
    }

    /// From its shelter the thread closes a descriptor, should we be killed.
    fn close_on_the_way(&self, fd: u64) -> Result<(), TraceeError> {
        let Some(shelter) = &self.shelter else { return Ok(()) };
        let regs = shelter
            .by_way_of_close(fd, &self.clean_regs(), &self.site.mem)
            .map_err(self.memory("making a way home", shelter.at))?;
        self.thread.set_regs(&regs)
    }

    fn start(&self, code: u64, scratch: &Scratch, calls: usize, home: u64) -> Result<(), TraceeError> {
        let mut regs = self.clean_regs();
        regs.rip = code;
        regs.rbx = scratch.table;
        regs.rbp = calls as u64;
        regs.r12 = home;
        self.thread.set_regs(&regs)
    }

    fn results(&self, scratch: &Scratch, batch: &Batch) -> Result<Vec<i64>, TraceeError> {
        let mut table = vec![0; batch.len() * ENTRY];
        self.read("reading results", scratch.table, &mut table)?;
        Ok(table
            .chunks_exact(ENTRY)
            .map(|e| i64::from_le_bytes([e[56], e[57], e[58], e[59], e[60], e[61], e[62], e[63]]))
            .collect())
    }
}
