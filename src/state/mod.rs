//! One file per kind of process state: how to capture it from a stopped process and how to put it back.
//!
//! | file | state |
//! |---|---|
//! | [`seam`] | what a kind of state is: the traits |
//! | [`process`] | the list of those of a process: directories, limits, signal actions, prctl flags, labels |
//! | [`sanity`] | what an image from another host must look like |
//! | [`memory_map`] | mappings, their flags, the vDSO |
//! | [`vm_flags`] | flags of mappings |
//! | [`guard_pages`] | guard pages without a mapping of their own |
//! | [`half_done`] | calls that return a part when they are stopped |
//! | [`huge_pages`] | how many huge pages (hugetlb) it all takes |
//! | [`memory_modes`] | modes of the address space: huge pages off, merging, MDWE, locking of what comes |
//! | [`mm_fields`] | brk, arguments, environment, auxiliary vector, exe link |
//! | [`thread`] | the list of those of a thread: scheduling, modes, alternate stack, a directory of its own |
//! | [`threads`] | registers, masks, rseq, robust lists, tid addresses |
//! | [`waits`] | system calls that the freeze interrupted |
//! | [`signals`] | queued signals |
//! | [`timers`] | interval timers and POSIX timers |
//! | [`credentials`] | uids, gids, groups, capabilities |
//! | [`robust`] | robust futex lists when a copy ends |
//! | [`seccomp`] | seccomp of each thread (refused) |
//! | [`numa`] | NUMA policies of threads and mappings (refused) |
//! | [`program`] | the program's file, the vDSO (refused where they are gone) |
//! | [`reasons`] | texts that an obstacle and its row in the table share |
//! | [`room`] | whether there is room for remote calls |
//! | [`namespaces`] | whose they must be (refused where they differ) |
//! | [`inode`] | owner, mode and times of what has no name |
//! | [`shm`] | files of `/dev/shm` whose name in the mappings is gone |
//! | [`shared_memory`] | memory objects that other processes map, too (refused) |
//! | [`sharing`] | what other processes share with it (refused), directories of a thread's own |
//! | [`sysv`] | System V queues and semaphores that it uses (refused) |
//! | [`probes`] | Landlock, keyrings, descriptor tables: what shows nowhere (refused) |
//! | [`digest`] | hashes of memory, for `--verify` |
//! | [`files`] | descriptors, one file per kind |
//! | [`verdicts`] | what a move does with each kind of state: the table behind `docs/SUPPORT.md` |
//!
//! To add a kind of state: one new file in `process/` or `thread/` and one line in its list. Of a descriptor: `files/kinds.rs`.

pub mod credentials;
pub mod digest;
pub mod error;
pub mod files;
pub mod guard_pages;
pub mod half_done;
pub mod huge_pages;
pub mod inode;
pub mod memory_map;
pub mod memory_modes;
pub mod mm_fields;
pub mod namespaces;
pub mod numa;
pub mod overruns;
pub mod probes;
pub mod process;
pub mod program;
pub mod reasons;
pub mod robust;
pub mod room;
pub mod sanity;
pub mod seam;
pub mod seccomp;
pub mod shared_memory;
pub mod sharing;
pub mod shm;
pub mod signals;
pub mod sysv;
pub mod thread;
pub mod threads;
pub mod timers;
pub mod verdicts;
pub mod vm_flags;
pub mod waits;

pub use error::StateError;

/// Our own credentials.
pub fn credentials_of_self() -> Result<crate::image::process::Credentials, StateError> {
    let own = std::path::Path::new("/proc/thread-self/status");
    let status =
        crate::sys::status::Status::read(own).map_err(StateError::io(0, "reading our own credentials"))?;
    Ok(credentials::of_status(&status))
}
