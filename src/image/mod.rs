//! What a process is, as plain serde data, versioned; no I/O.
//!
//! ```text
//! TreeImage ─┬─ version
//!            └─ processes: ProcessImage ─┬─ memory: MemoryImage (layout; the pages travel apart)
//!                                        ├─ threads: ThreadImage (registers, masks, rseq, queued signals …)
//!                                        ├─ signals, timers, credentials
//!                                        ├─ states: States (by name, `state/process/`)
//!            │                            └─ relations, descriptor table (by its number)
//!            └─ files: FilesImage ─┬─ tables: slots by number
//!                                  └─ open files, pipes, sockets, memory files
//! ```

#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

pub mod bounded;
pub mod check;
pub mod file_identity;
pub mod file_path;
pub mod files;
pub mod inode;
pub mod memory;
pub mod note;
pub mod obstacle;
pub mod page_map;
pub mod process;
pub mod process_index;
pub mod ranges;
pub mod shown;
pub mod sockets;
pub mod states;

pub use file_path::FilePath;
pub use memory::{Backing, MemoryImage, ObjectId, PageOwner, Vma, VmaFlags};
pub use note::Note;
pub use obstacle::Obstacle;
pub use page_map::PageMap;
pub use process::{ProcessImage, Relations, ThreadImage, TreeImage};
pub use process_index::{FIRST, ProcessIndex};
pub use ranges::{PageRange, RangeSet};
pub use shown::{shown, shown_lines};
pub use states::States;

/// Version of everything in this room; both ends must have the same.
pub const IMAGE_VERSION: u32 = 3;

/// Bytes of a page. x86-64 only; other page sizes are refused in the hello.
pub const PAGE_SIZE: u64 = 4096;
