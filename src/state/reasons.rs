//! Reasons that both an obstacle and its row in the table of verdicts give.

/// Why a program is refused whose name leads to another file now.
pub const REPLACED: &str = "its file was replaced since the process was started, as by an upgrade";
/// Why a program whose file has no `x` bit at the target is refused.
pub const NOT_EXECUTABLE: &str = "it may not be executed at the target any more";
/// Why a process without a vDSO is refused that has no usable instruction elsewhere either.
pub const WITHOUT_VDSO: &str =
    "the process has unmapped it, and has no other code by which calls could be made in its name";

/// Why an object is refused that only its private mappings show.
pub const UNREADABLE: &str = "it has no descriptor any more and is mapped privately, so its content can only be read by who may \
     open /proc/PID/map_files (CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE)";
