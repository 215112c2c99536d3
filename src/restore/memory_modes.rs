//! Preflight: what the mappings of a process ask of this kernel, and of the rights of `ulpm serve`, beyond room.

use crate::image::process::ProcessImage;
use crate::image::{Obstacle, Vma, VmaFlags};
use crate::state::{guard_pages, room};
use crate::sys::kernel::Kernel;
use crate::sys::memory_modes;
use crate::sys::process::prlimit;

const RLIMIT_MEMLOCK: u32 = 8;
const CAP_IPC_LOCK: u32 = 14;

/// All that stands in the way.
pub(super) fn obstacles(kernel: &Kernel, process: &ProcessImage) -> Vec<Obstacle> {
    let vmas = &process.memory.layout.vmas;
    let with = |flag| vmas.iter().filter(move |v: &&Vma| v.has(flag));
    let mut found = Vec::new();
    let at = |vma: &Vma| format!("mapping {:#x}-{:#x}", vma.start, vma.end);
    if let Some(vma) = with(VmaFlags::SEALED).next()
        && !kernel.sealing
    {
        let why = "it is sealed (mseal), which the target's kernel does not know";
        found.push(Obstacle::new(at(vma), why, "use a target with Linux 6.10 or later"));
    }
    if let Some(vma) = with(VmaFlags::DROPPABLE).next()
        && !kernel.droppable
    {
        let why = "it is droppable (MAP_DROPPABLE), which the target's kernel does not know";
        found.push(Obstacle::new(at(vma), why, "use a target with Linux 6.11 or later"));
    }
    if let Some(guard) = process.memory.guards.first()
        && !kernel.guards
    {
        let advice = "use a target with Linux 6.13 or later";
        found.push(Obstacle::new(
            format!("mapping {:#x}-{:#x}", guard.start, guard.end),
            guard_pages::UNKNOWN,
            advice,
        ));
    }
    let (mappings, most) = (vmas.len() + process.memory.vdso.areas.len(), room::most_mappings());
    if mappings.saturating_add(room::MAPPINGS) > most {
        let why = format!("it has {mappings} mappings, and the target allows {most}");
        found.push(Obstacle::new("memory", why, "raise the sysctl vm.max_map_count at the target"));
    }
    let merges = process.memory.modes.merge || with(VmaFlags::MERGEABLE).next().is_some();
    if merges && !kernel.merging {
        let why = "equal pages are to be merged (KSM), which the target's kernel does not do";
        found.push(Obstacle::new("memory", why, "use a target whose kernel has CONFIG_KSM"));
    }
    if memory_modes::denied_write_execute() {
        found.push(Obstacle::new(
            "memory",
            "ulpm serve may not make memory executable (PR_SET_MDWE), nor may what it starts",
            "start it without MemoryDenyWriteExecute=",
        ));
    }
    found.extend(locked(with(VmaFlags::LOCKED).map(|v| v.range().len()).sum()));
    found
}

fn locked(bytes: u64) -> Option<Obstacle> {
    let may_all = crate::state::credentials_of_self().is_ok_and(|own| own.caps[2] >> CAP_IPC_LOCK & 1 == 1);
    let (_, hard) = prlimit(std::process::id() as i32, RLIMIT_MEMLOCK, None).ok()?;
    (bytes > hard && !may_all).then(|| {
        Obstacle::new(
            "locked memory",
            format!("the process has {bytes} bytes locked, ulpm serve may lock {hard} (RLIMIT_MEMLOCK)"),
            "give `ulpm serve` a higher limit (LimitMEMLOCK= in its unit) or CAP_IPC_LOCK",
        )
    })
}
