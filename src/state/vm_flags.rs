//! Flags of a mapping: the two-letter words behind `VmFlags:` in `/proc/PID/smaps` (`show_smap_vma_flags` in
//! `fs/proc/task_mmu.c`), and its protection key. What becomes of each is in the table of verdicts; a word without a row is an
//! obstacle. The words are read here, since a parser that knows them by name drops those of newer kernels.
//!
//! A locked area whose pages are locked as they come (`MLOCK_ONFAULT`) says `lf` beside `lo`. Older kernels say only `lo`: there
//! an area that is locked and lacks pages counts as one, so that nothing comes in at the target that was not there.

use super::verdicts::{self, Area, Verdict};
use crate::image::{Obstacle, VmaFlags};
use crate::sys::kernel::Kernel;

/// What `smaps` says of one mapping beside its line of `maps`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    words: Vec<String>,
    /// KiB mapped, KiB present.
    size: u64,
    present: u64,
    protection_key: u64,
}

/// Of each mapping, in order, from the text of `smaps`.
pub fn marks(smaps: &[u8]) -> Vec<Marks> {
    let mut all = Vec::new();
    let mut marks = Marks::default();
    for line in smaps.split(|byte| *byte == b'\n') {
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else {
            continue;
        };
        let mut words = value.split_ascii_whitespace();
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        match name {
            "Size" => marks.size = number(),
            "Rss" => marks.present = number(),
            "ProtectionKey" => marks.protection_key = number(),
            "VmFlags" => {
                marks.words = words.map(str::to_owned).collect();
                all.push(std::mem::take(&mut marks));
            }
            _ => {}
        }
    }
    all
}

impl Marks {
    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    /// What is carried of it.
    pub fn flags(&self, kernel: &Kernel) -> VmaFlags {
        let mut flags: VmaFlags = [
            ("gd", VmaFlags::GROWS_DOWN),
            ("lo", VmaFlags::LOCKED),
            ("lf", VmaFlags::LOCK_ON_FAULT),
            ("sr", VmaFlags::SEQUENTIAL),
            ("rr", VmaFlags::RANDOM),
            ("dc", VmaFlags::DONT_FORK),
            ("nr", VmaFlags::NO_RESERVE),
            ("wf", VmaFlags::WIPE_ON_FORK),
            ("dd", VmaFlags::DONT_DUMP),
            ("hg", VmaFlags::HUGE_PAGE),
            ("nh", VmaFlags::NO_HUGE_PAGE),
            ("mg", VmaFlags::MERGEABLE),
            ("mw", VmaFlags::MAY_WRITE),
            ("sl", VmaFlags::SEALED),
            ("dp", VmaFlags::DROPPABLE),
        ]
        .into_iter()
        .filter(|(word, _)| self.has(word))
        .map(|(_, flag)| flag)
        .collect();
        if flags.contains(VmaFlags::LOCKED) && !flags.contains(VmaFlags::LOCK_ON_FAULT) {
            if self.present >= self.size {
                flags |= VmaFlags::POPULATED;
            } else if !kernel.lock_on_fault_shown {
                flags |= VmaFlags::LOCK_ON_FAULT;
            }
        }
        flags
    }

    /// What of it cannot be carried.
    pub fn obstacles(&self, (start, end): (u64, u64)) -> Vec<Obstacle> {
        let why = |word: &String| match verdicts::of(Area::VmFlags, word).map(|row| row.verdict) {
            Some(Verdict::Refused(why)) => Some(why.to_owned()),
            Some(_) => None,
            None => Some(format!("it has the flag {word} (VmFlags), of which this ulpm knows nothing")),
        };
        let key = (self.protection_key != 0).then(|| {
            format!("it is guarded by memory protection key {}, which is not carried", self.protection_key)
        });
        self.words
            .iter()
            .filter_map(why)
            .chain(key)
            .map(|why| Obstacle::new(format!("mapping {start:#x}-{end:#x}"), why, "unmap it"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
        Size:                  4 kB\nRss:                   0 kB\nProtectionKey:         2\nVmFlags: rd wr mr lo lf xy io \n\
        7f0000002000-7f0000003000 rw-p 00000000 00:00 0 [anon: VmFlags: sl]\nSize: 4 kB\nVmFlags: rd wr dp\n";

    #[test]
    fn every_word_has_a_verdict_or_is_an_obstacle() {
        let all = marks(SMAPS.as_bytes());
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].flags(Kernel::here()), VmaFlags::LOCKED | VmaFlags::LOCK_ON_FAULT);
        let why: Vec<String> = all[0].obstacles((0x1000, 0x2000)).iter().map(ToString::to_string).collect();
        assert_eq!(why.len(), 3, "{why:?}");
        assert!(why[0].starts_with("mapping 0x1000-0x2000: it has the flag xy"), "{why:?}");
        assert!(why[2].contains("protection key 2"), "{why:?}");
        assert_eq!(all[1].flags(Kernel::here()), VmaFlags::DROPPABLE);
        assert_eq!(all[1].obstacles((0, 1)), []);
    }

    #[test]
    fn our_own_mappings_have_no_unknown_flag() {
        let text = std::fs::read("/proc/self/smaps").unwrap();
        for marks in marks(&text) {
            for word in &marks.words {
                assert!(verdicts::of(Area::VmFlags, word).is_some(), "no row for {word}");
            }
        }
    }
}
