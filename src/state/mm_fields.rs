//! Pointers of the address space: code, data, heap, stack, arguments, environment, auxiliary vector, and the
//! `exe` link. Read from `/proc/PID/stat` and `auxv`, set by `prctl(PR_SET_MM, PR_SET_MM_MAP)`, which wants
//! `CAP_CHECKPOINT_RESTORE` for the link only; the older single-field requests want `CAP_SYS_RESOURCE`.

use procfs::process::Process;

use super::error::StateError;
use crate::image::memory::MmFields;
use crate::sys::voice;
use crate::tracee::{Batch, Outcome};

const PR_SET_MM: u64 = 35;
const PR_SET_MM_MAP: u64 = 14;
const MAP_SIZE: u64 = 104;
/// "Leave the exe link as it is."
pub const NO_EXE: u32 = u32::MAX;

/// Reads everything but the current break, which only the process itself can tell exactly.
pub fn capture(pid: i32) -> Result<MmFields, StateError> {
    let pid = voice::of(pid);
    let process = Process::new(pid).map_err(StateError::proc(pid, "stat"))?;
    let stat = process.stat().map_err(StateError::proc(pid, "stat"))?;
    let auxv = std::fs::read(format!("/proc/{pid}/auxv"))
        .map_err(StateError::io(pid, "reading the auxiliary vector"))?;
    let need = |value: Option<u64>, field| value.ok_or(StateError::Field { pid, file: "stat", field });
    Ok(MmFields {
        start_code: stat.startcode,
        end_code: stat.endcode,
        start_data: need(stat.start_data, "start_data")?,
        end_data: need(stat.end_data, "end_data")?,
        start_brk: need(stat.start_brk, "start_brk")?,
        brk: 0,
        start_stack: stat.startstack,
        arg_start: need(stat.arg_start, "arg_start")?,
        arg_end: need(stat.arg_end, "arg_end")?,
        env_start: need(stat.env_start, "env_start")?,
        env_end: need(stat.env_end, "env_end")?,
        auxv,
    })
}

/// Asks for the break; the answer is the result of that call.
pub fn ask(batch: &mut Batch) -> usize {
    batch.attempt("brk", libc::SYS_brk, &[0])
}

/// Reads the answer.
pub fn answer(outcome: &Outcome, index: usize) -> u64 {
    outcome.results[index] as u64
}

/// Sets all pointers, and the exe link to the file open as `exe_fd` inside the process.
pub fn put(batch: &mut Batch, mm: &MmFields, exe_fd: u32) {
    let auxv = batch.bytes(&mm.auxv);
    let fields = [
        mm.start_code,
        mm.end_code,
        mm.start_data,
        mm.end_data,
        mm.start_brk,
        mm.brk,
        mm.start_stack,
        mm.arg_start,
        mm.arg_end,
        mm.env_start,
        mm.env_end,
        auxv,
    ];
    let mut map: Vec<u8> = fields.iter().flat_map(|f| f.to_le_bytes()).collect();
    map.extend_from_slice(&(mm.auxv.len() as u32).to_le_bytes());
    map.extend_from_slice(&exe_fd.to_le_bytes());
    debug_assert_eq!(map.len() as u64, MAP_SIZE);
    let at = batch.bytes(&map);
    batch.call("prctl(PR_SET_MM_MAP)", libc::SYS_prctl, &[PR_SET_MM, PR_SET_MM_MAP, at, MAP_SIZE, 0]);
}
