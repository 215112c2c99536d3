//! Which mappings are written most, by name.

use std::collections::HashMap;

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use super::who::printable;
use crate::image::{FilePath, PageRange, RangeSet};

/// A mapping and what to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Where it lies.
    pub(crate) range: PageRange,
    /// `[heap]`, `[stack]`, a path, `memfd:NAME`; `None` for anonymous memory, which goes by its address.
    pub(crate) name: Option<String>,
}

impl Named {
    fn of(map: &MemoryMap) -> Self {
        let name = match &map.pathname {
            MMapPath::Path(path) => Some(printable(&readable(&FilePath::from(path.as_path()).to_string()))),
            MMapPath::Heap => Some("[heap]".to_owned()),
            MMapPath::Stack => Some("[stack]".to_owned()),
            MMapPath::TStack(tid) => Some(format!("[stack:{tid}]")),
            MMapPath::Anonymous => None,
            MMapPath::Other(name) => Some(printable(&format!("[{name}]"))),
            other => Some(format!("{other:?}")),
        };
        Named { range: PageRange::new(map.address.0, map.address.1), name }
    }

    /// All mappings of a process. Memory without a file right behind the writable part of one is that program's or
    /// library's own zeroed data (`.bss`), and goes by its name.
    pub(crate) fn all(maps: &[MemoryMap]) -> Vec<Self> {
        let mut all: Vec<Named> = Vec::with_capacity(maps.len());
        let mut file: Option<&MemoryMap> = None;
        for map in maps {
            let mut named = Named::of(map);
            let behind =
                |f: &&MemoryMap| f.address.1 == map.address.0 && f.perms.contains(MMPermissions::WRITE);
            if map.pathname == MMapPath::Anonymous && file.filter(behind).is_some() {
                named.name = all.last().and_then(|before| before.name.clone());
            }
            file = matches!(map.pathname, MMapPath::Path(_)).then_some(map);
            all.push(named);
        }
        all
    }

    /// Parts of one file count together, anonymous areas each for itself.
    fn key(&self) -> Key {
        match &self.name {
            Some(name) => Key::Name(name.clone()),
            None => Key::Anonymous(self.range.start),
        }
    }
}

/// `/memfd:NAME (deleted)` is how the kernel shows a memfd, `/dev/zero (deleted)` shared anonymous memory.
fn readable(path: &str) -> String {
    match path {
        "/dev/zero (deleted)" => return "shared anonymous memory".to_owned(),
        "/anon_hugepage (deleted)" => return "anonymous huge pages (hugetlb)".to_owned(),
        _ => {}
    }
    path.strip_prefix("/memfd:")
        .map_or_else(|| path.to_owned(), |name| format!("memfd:{}", name.trim_end_matches(" (deleted)")))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Name(String),
    Anonymous(u64),
}

/// How much was written in one mapping, or in all parts of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hot {
    /// What to call it.
    pub(crate) name: String,
    /// Its size now (all parts); 0 if it is gone.
    pub(crate) size: u64,
    /// Pages written, counted once per sample.
    pub(crate) pages: u64,
}

/// Counts written pages by mapping.
#[derive(Debug, Default)]
pub(crate) struct Heat {
    pages: HashMap<Key, u64>,
}

impl Heat {
    /// Takes in a sample. `maps` is in address order.
    pub(crate) fn add(&mut self, written: &RangeSet, maps: &[Named]) {
        let mut at = 0;
        for range in written.iter() {
            while maps.get(at).is_some_and(|m| m.range.end <= range.start) {
                at += 1;
            }
            for map in maps[at..].iter().take_while(|m| m.range.start < range.end) {
                *self.pages.entry(map.key()).or_default() += map.range.intersection(&range).pages();
            }
        }
    }

    /// The mappings that were written, hottest first. Anonymous areas that grew downwards or were joined count under
    /// where they begin now.
    pub(crate) fn finish(self, now: &[Named]) -> Vec<Hot> {
        let mut sums: HashMap<Key, u64> = HashMap::new();
        for (key, pages) in self.pages {
            *sums.entry(settled(key, now)).or_default() += pages;
        }
        let size = |key: &Key| now.iter().filter(|m| m.key() == *key).map(|m| m.range.len()).sum();
        let mut all: Vec<(Key, u64)> = sums.into_iter().filter(|(_, pages)| *pages > 0).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all.into_iter()
            .map(|(key, pages)| Hot {
                size: size(&key),
                pages,
                name: match key {
                    Key::Name(name) => name,
                    Key::Anonymous(start) => format!("anonymous at {start:#x}"),
                },
            })
            .collect()
    }
}

fn settled(key: Key, now: &[Named]) -> Key {
    let Key::Anonymous(start) = key else { return key };
    let at = now.partition_point(|m| m.range.end <= start);
    match now.get(at) {
        Some(map) if map.name.is_none() && map.range.start <= start => map.key(),
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::PAGE_SIZE;

    fn pages(from: u64, to: u64) -> PageRange {
        PageRange::new(from * PAGE_SIZE, to * PAGE_SIZE)
    }

    fn named(from: u64, to: u64, name: Option<&str>) -> Named {
        Named { range: pages(from, to), name: name.map(str::to_owned) }
    }

    #[test]
    fn pages_are_counted_where_they_lie() {
        let maps = [
            named(0, 10, Some("/bin/x")),
            named(10, 20, Some("/bin/x")),
            named(30, 40, Some("[heap]")),
            named(50, 60, None),
        ];
        let mut heat = Heat::default();
        let written: RangeSet =
            [pages(8, 12), pages(19, 31), pages(35, 40), pages(55, 56)].into_iter().collect();
        heat.add(&written, &maps);
        heat.add(&[pages(50, 59)].into_iter().collect(), &maps);
        let hot = heat.finish(&maps);
        let seen: Vec<(&str, u64, u64)> =
            hot.iter().map(|h| (h.name.as_str(), h.pages, h.size / PAGE_SIZE)).collect();
        assert_eq!(seen, [("anonymous at 0x32000", 10, 10), ("[heap]", 6, 10), ("/bin/x", 5, 20)]);
    }

    #[test]
    fn an_area_that_grew_downwards_is_one() {
        let mut heat = Heat::default();
        heat.add(&[pages(50, 51)].into_iter().collect(), &[named(50, 60, None)]);
        let now = [named(40, 60, None)];
        heat.add(&[pages(41, 42)].into_iter().collect(), &now);
        let hot = heat.finish(&now);
        assert_eq!(hot.len(), 1);
        assert_eq!((hot[0].pages, hot[0].size), (2, 20 * PAGE_SIZE));
    }

    #[test]
    fn zeroed_data_belongs_to_its_program() {
        let text = "\
1000-2000 r-xp 00000000 fe:00 7 /bin/x
2000-3000 rw-p 00001000 fe:00 7 /bin/x
3000-5000 rw-p 00000000 00:00 0\x20
5000-6000 rw-p 00000000 00:00 0 [heap]
8000-9000 r--p 00000000 fe:00 8 /lib/y
9000-a000 rw-p 00000000 00:00 0\x20
b000-c000 rw-s 00000000 00:01 9 /memfd:ring (deleted)
";
        let maps =
            <procfs::process::MemoryMaps as procfs::FromBufRead>::from_buf_read(text.as_bytes()).unwrap();
        let names: Vec<Option<String>> = Named::all(&maps.0).into_iter().map(|m| m.name).collect();
        let names: Vec<Option<&str>> = names.iter().map(Option::as_deref).collect();
        let x = Some("/bin/x");
        assert_eq!(names, [x, x, x, Some("[heap]"), Some("/lib/y"), None, Some("memfd:ring")]);
    }

    #[test]
    fn names_are_for_people() {
        assert_eq!(readable("/memfd:ring (deleted)"), "memfd:ring");
        assert_eq!(readable("/dev/zero (deleted)"), "shared anonymous memory");
        assert_eq!(readable("/anon_hugepage (deleted)"), "anonymous huge pages (hugetlb)");
        assert_eq!(readable("/usr/bin/x"), "/usr/bin/x");
    }
}
