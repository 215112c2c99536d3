//! A value for each page, kept in pieces of 512 pages (one page table's worth): dense where memory is, nothing where none is.

use std::collections::HashMap;

use super::PAGE_SIZE;
use super::ranges::PageRange;

/// Pages of one piece.
pub const PIECE_PAGES: usize = 512;
const PIECE: u64 = PIECE_PAGES as u64 * PAGE_SIZE;

/// A value for each page; the default where none was set.
#[derive(Clone, Debug)]
pub struct PageMap<T> {
    pieces: HashMap<u64, Box<[T; PIECE_PAGES]>>,
}

impl<T> Default for PageMap<T> {
    fn default() -> Self {
        PageMap { pieces: HashMap::new() }
    }
}

impl<T: Copy + Default> PageMap<T> {
    /// The value of the page at `addr`.
    pub fn get(&self, addr: u64) -> T {
        self.piece(addr).map_or_else(T::default, |p| p[place(addr)])
    }

    /// Sets the value of the page at `addr`; returns the one before.
    pub fn set(&mut self, addr: u64, value: T) -> T {
        std::mem::replace(&mut self.piece_mut(addr)[place(addr)], value)
    }

    /// The values of the 2 MiB around `addr`, if any was ever set.
    pub fn piece(&self, addr: u64) -> Option<&[T; PIECE_PAGES]> {
        self.pieces.get(&(addr / PIECE)).map(|p| &**p)
    }

    /// The values of the 2 MiB around `addr`, to be changed.
    pub fn piece_mut(&mut self, addr: u64) -> &mut [T; PIECE_PAGES] {
        self.pieces.entry(addr / PIECE).or_insert_with(|| Box::new([T::default(); PIECE_PAGES]))
    }

    /// Sets the pages of a range back to the default.
    pub fn clear(&mut self, range: PageRange) {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / PIECE + 1) * PIECE);
            if end - at == PIECE {
                self.pieces.remove(&(at / PIECE));
            } else if let Some(piece) = self.pieces.get_mut(&(at / PIECE)) {
                piece[place(at)..][..((end - at) / PAGE_SIZE) as usize].fill(T::default());
            }
            at = end;
        }
    }
}

/// The place of the page at `addr` in its piece.
pub fn place(addr: u64) -> usize {
    (addr % PIECE / PAGE_SIZE) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_set_and_forgets_what_was_cleared() {
        let page = |n: u64| n * PAGE_SIZE;
        let mut map = PageMap::default();
        for n in 0..2000 {
            assert_eq!(map.set(page(n), n + 1), 0);
        }
        assert_eq!(map.set(page(5), 60), 6);
        map.clear(PageRange::new(page(500), page(1600)));
        for n in 0..2000 {
            let expected = if (500..1600).contains(&n) { 0 } else { n + 1 };
            assert_eq!(map.get(page(n)), if n == 5 { 60 } else { expected }, "page {n}");
        }
        assert_eq!(map.get(page(1 << 30)), 0);
    }
}
