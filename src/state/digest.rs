//! Hashes of the memory of a stopped process, for `--verify`: both sides compute them in the same way and compare.
//!
//! Private mappings: every page that is present and private (not the file's, not the kernel's zero page). A page
//! of zeroes in anonymous memory counts like an absent one: that is what both read as. Shared objects: their
//! content, without holes and zeroes. Shared mappings of files are the files' affair.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::unistd::{Whence, lseek};
use xxhash_rust::xxh3::Xxh3;

use super::error::StateError;
use crate::image::memory::Layout;
use crate::image::{Backing, ObjectId, PAGE_SIZE, PageRange, RangeSet, Vma};
use crate::sys::kernel::Kernel;
use crate::sys::pagemap;
use crate::sys::process::{ProcMem, read_memory};
use crate::sys::voice;

/// Bytes read at once.
const PIECE: u64 = 1024 * 1024;

/// Hash of one piece of memory: where, how many pages that are not zero, xxh3 (128 bits: against errors, not against
/// forgery; the peer is trusted).
pub type Digest = (u64, u64, u128);

/// Hashes all private mappings of a layout, without the pages in `except`: start address, pages, hash.
pub fn private(pid: i32, layout: &Layout, except: &RangeSet) -> Result<Vec<Digest>, StateError> {
    let pid = voice::of(pid);
    let pagemap =
        File::open(format!("/proc/{pid}/pagemap")).map_err(StateError::io(pid, "opening the page map"))?;
    let mem = ProcMem::open(pid).map_err(StateError::io(pid, "opening the memory"))?;
    merged(layout).into_iter().map(|vma| private_vma(pid, &vma, except, &pagemap, &mem)).collect()
}

/// Neighbouring pieces of one mapping count as one: the two sides may have them split differently.
fn merged(layout: &Layout) -> Vec<Vma> {
    let mut all: Vec<Vma> = Vec::new();
    for vma in layout.vmas.iter().filter(|v| v.private()) {
        match all.last_mut() {
            Some(last)
                if last.end == vma.start && last.identity_at(last.end) == vma.identity_at(vma.start) =>
            {
                last.end = vma.end;
            }
            _ => all.push(vma.clone()),
        }
    }
    all
}

fn private_vma(
    pid: i32,
    vma: &Vma,
    except: &RangeSet,
    pagemap: &File,
    mem: &ProcMem,
) -> Result<Digest, StateError> {
    let mut ranges = Vec::new();
    pagemap::private_pages(Kernel::here(), pagemap, vma.start, vma.end, |start, end| {
        ranges.push(PageRange::new(start, end))
    })
    .map_err(StateError::errno(pid, "scanning the pages"))?;
    let mut hasher = PageHasher::new(vma.backing == Backing::Anonymous);
    let mut buffer = vec![0; PIECE as usize];
    for piece in ranges.into_iter().flat_map(|r| except.gaps(r)).flat_map(|r| r.chunks(PIECE)) {
        let bytes = &mut buffer[..piece.len() as usize];
        if read_memory(pid, piece.start, bytes).is_err() {
            mem.read(piece.start, bytes)
                .map_err(StateError::io(pid, format!("reading the page at {:#x}", piece.start)))?;
        }
        hasher.add(piece.start, bytes);
    }
    Ok(hasher.digest(vma.start))
}

/// Hashes the content of a shared object, without the pages in `except`.
pub fn object(id: ObjectId, file: &File, except: &RangeSet) -> Result<Digest, StateError> {
    let failed = |e| StateError::io(0, format!("reading the memory object {}", id.ino))(e);
    let ranges = data_ranges(file).map_err(failed)?.into_iter().flat_map(|r| except.gaps(r));
    object_by(id, ranges, |piece, bytes| read_up_to(file, piece.start, bytes).map_err(failed))
}

/// The same of an object that is read in another way: `read` fills a buffer of zeroes with these offsets of it. What is
/// left out counts as zeroes.
pub fn object_by<E>(
    id: ObjectId,
    ranges: impl IntoIterator<Item = PageRange>,
    mut read: impl FnMut(PageRange, &mut [u8]) -> Result<(), E>,
) -> Result<Digest, E> {
    let mut hasher = PageHasher::new(true);
    let mut buffer = vec![0; PIECE as usize];
    for piece in ranges.into_iter().flat_map(|r| r.chunks(PIECE)) {
        let bytes = &mut buffer[..piece.len() as usize];
        bytes.fill(0);
        read(piece, bytes)?;
        hasher.add(piece.start, bytes);
    }
    Ok(hasher.digest(id.ino))
}

/// Reads until the end of the file; what lies beyond stays as it is in `bytes`.
pub fn read_up_to(file: &File, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(())
}

/// The parts of a memory file that are not holes, in whole pages.
pub fn data_ranges(file: &File) -> std::io::Result<Vec<PageRange>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    loop {
        let start = match lseek(file, at, Whence::SeekData) {
            Ok(start) => start,
            // beyond the last data
            Err(nix::errno::Errno::ENXIO) => return Ok(ranges),
            Err(e) => return Err(e.into()),
        };
        at = match lseek(file, start, Whence::SeekHole) {
            Ok(end) => end,
            // cut off in between
            Err(nix::errno::Errno::ENXIO) => return Ok(ranges),
            Err(e) => return Err(e.into()),
        };
        ranges.push(PageRange::new(
            start as u64 / PAGE_SIZE * PAGE_SIZE,
            (at as u64).next_multiple_of(PAGE_SIZE),
        ));
    }
}

/// Whether a page is all zeroes.
pub fn is_zero(page: &[u8]) -> bool {
    // SIMD by the compiler: chunks of a fixed size, no early exit inside one
    page.chunks_exact(64).all(|c| c.iter().fold(0u8, |a, b| a | b) == 0)
}

/// Cuts a buffer of whole pages into runs that are all zero or all not: `(from, to, zero)`.
pub fn runs_of_zero(data: &[u8], look: bool) -> Vec<(usize, usize, bool)> {
    let mut runs: Vec<(usize, usize, bool)> = Vec::new();
    for (i, page) in data.chunks(PAGE_SIZE as usize).enumerate() {
        let zero = look && is_zero(page);
        let from = i * PAGE_SIZE as usize;
        match runs.last_mut() {
            Some(run) if run.2 == zero => run.1 = from + page.len(),
            _ => runs.push((from, from + page.len(), zero)),
        }
    }
    runs
}

struct PageHasher {
    hasher: Box<Xxh3>,
    addresses: Box<Xxh3>,
    pages: u64,
    skip_zero: bool,
}

impl PageHasher {
    fn new(skip_zero: bool) -> Self {
        PageHasher { hasher: Box::new(Xxh3::new()), addresses: Box::new(Xxh3::new()), pages: 0, skip_zero }
    }

    /// Takes in whole pages, in runs: one page at a time is three times slower.
    fn add(&mut self, start: u64, bytes: &[u8]) {
        for (from, to, zero) in runs_of_zero(bytes, self.skip_zero) {
            if zero {
                continue;
            }
            for addr in (start + from as u64..start + to as u64).step_by(PAGE_SIZE as usize) {
                self.addresses.update(&addr.to_le_bytes());
                self.pages += 1;
            }
            self.hasher.update(&bytes[from..to]);
        }
    }

    fn digest(self, start: u64) -> Digest {
        (start, self.pages, self.hasher.digest128() ^ self.addresses.digest128().rotate_left(64))
    }
}
