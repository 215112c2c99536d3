//! An ELF core of a process in a checkpoint, as the kernel writes one when a process dumps core: debuggers open it.
//!
//! ```text
//! header, program headers │ notes │ content of the segments, at multiples of the page size
//! ```
//! Notes: of each thread its registers (`NT_PRSTATUS`, `NT_FPREGSET`, `NT_X86_XSTATE`), of the process who it is, its auxiliary vector
//! and its mapped files (`NT_PRPSINFO`, `NT_AUXV`, `NT_FILE`). What was never touched of anonymous memory is a hole in the file; what
//! is kept of no mapping of a file is without content here, too: a debugger reads it from the file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use object::elf;
use object::endian::{LittleEndian, U16, U32, U64};
use object::pod::bytes_of;

use super::error::CheckpointError;
use super::extents::Extents;
use super::kept::{Content, Kept};
use crate::image::{Backing, FIRST, PAGE_SIZE, PageRange, ProcessImage, ThreadImage, Vma};

type Le = LittleEndian;
const LE: Le = LittleEndian;

/// Bytes of `struct elf_prstatus` and `struct elf_prpsinfo` on x86-64, and of what `fxsave` saves.
const PRSTATUS: usize = 336;
const PRPSINFO: usize = 136;
const FXSAVE: usize = 512;
/// The kernel's limit of mappings is below that.
const MOST_SEGMENTS: usize = elf::PN_XNUM as usize - 2;

/// A range of addresses as a segment of the core.
struct CoreSegment<'a> {
    range: PageRange,
    vma: &'a Vma,
    /// Where its content is, and how far that is from its addresses; `None`: it has none.
    content: Option<(&'a Extents, u64)>,
}

/// Writes the core of the process into a file that does not exist yet.
pub(crate) fn write_core(kept: &Kept, path: &Path) -> Result<(), CheckpointError> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(CheckpointError::io("making", path))?;
    let written = write(kept, &file, path);
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

fn write(kept: &Kept, file: &File, path: &Path) -> Result<(), CheckpointError> {
    let failed = |source| CheckpointError::io("writing", path)(source);
    let no_process = || failed(io::Error::other("there is no process in the checkpoint"));
    let process = kept.contents.tree.processes.first().ok_or_else(no_process)?;
    let segments = segments(kept);
    if segments.len() > MOST_SEGMENTS {
        return Err(failed(io::Error::other("it has too many mappings for a core")));
    }
    let notes = notes(kept, process)?;
    let count = segments.len() + 1;
    let notes_at = size_of::<elf::FileHeader64<Le>>() + count * size_of::<elf::ProgramHeader64<Le>>();
    let mut at = ((notes_at + notes.len()) as u64).next_multiple_of(PAGE_SIZE);
    let mut head = bytes_of(&header(count as u16)).to_vec();
    let note = Placed { offset: notes_at as u64, stored: notes.len() as u64, memory: 0, start: 0, align: 4 };
    head.extend(bytes_of(&program_header(elf::PT_NOTE, elf::ProgramFlags(0), note)));
    let mut places = Vec::new();
    for segment in &segments {
        let stored = if segment.content.is_some() { segment.range.len() } else { 0 };
        let (memory, start) = (segment.range.len(), segment.range.start);
        let placed = Placed { offset: at, stored, memory, start, align: PAGE_SIZE };
        head.extend(bytes_of(&program_header(elf::PT_LOAD, flags(segment.vma), placed)));
        places.push(at);
        at += stored;
    }
    head.extend(&notes);
    file.write_all_at(&head, 0).map_err(failed)?;
    file.set_len(at).map_err(failed)?;
    for (segment, at) in segments.iter().zip(places) {
        let Some((extents, away)) = segment.content else { continue };
        let range =
            PageRange::new(segment.range.start.wrapping_sub(away), segment.range.end.wrapping_sub(away));
        kept.each(extents, range, |content| match content {
            Content::Zero(_) => Ok(()),
            Content::Bytes(from, bytes) => {
                file.write_all_at(bytes, at + (from - range.start)).map_err(failed)
            }
        })?;
    }
    file.sync_all().map_err(failed)
}

/// The mappings of the process; those of files in pieces, with content where something is kept.
fn segments(kept: &Kept) -> Vec<CoreSegment<'_>> {
    let memory = &kept.contents.memory;
    let Some(private) = memory.processes.get(&FIRST) else { return Vec::new() };
    let mut all = Vec::new();
    for vma in &private.layout.vmas {
        let range = vma.range();
        let whole = |content| CoreSegment { range, vma, content };
        match (&vma.backing, vma.object().filter(|_| vma.shared)) {
            (_, Some(id)) => {
                let away = vma.start.wrapping_sub(vma.offset);
                all.push(whole(memory.objects.get(&id).map(|extents| (extents, away))));
            }
            _ if vma.shared => all.push(whole(None)),
            (Backing::Anonymous, _) if vma.prot == 0 && private.extents.within(range).is_empty() => {
                all.push(whole(None));
            }
            (Backing::Anonymous, _) => all.push(whole(Some((&private.extents, 0)))),
            _ => pieces(vma, &private.extents, &mut all),
        }
    }
    all
}

fn pieces<'a>(vma: &'a Vma, extents: &'a Extents, all: &mut Vec<CoreSegment<'a>>) {
    let mut at = vma.start;
    for (part, _) in extents.within(vma.range()) {
        for (range, content) in [(PageRange::new(at, part.start), None), (part, Some((extents, 0)))] {
            if !range.is_empty() {
                all.push(CoreSegment { range, vma, content });
            }
        }
        at = part.end;
    }
    if at < vma.end {
        all.push(CoreSegment { range: PageRange::new(at, vma.end), vma, content: None });
    }
}

fn header(count: u16) -> elf::FileHeader64<Le> {
    elf::FileHeader64 {
        e_ident: elf::Ident {
            magic: elf::ELFMAG,
            class: elf::ELFCLASS64,
            data: elf::ELFDATA2LSB,
            version: elf::EV_CURRENT,
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(LE, elf::ET_CORE),
        e_machine: U16::new(LE, elf::EM_X86_64),
        e_version: U32::new(LE, 1),
        e_entry: U64::new(LE, 0),
        e_phoff: U64::new(LE, size_of::<elf::FileHeader64<Le>>() as u64),
        e_shoff: U64::new(LE, 0),
        e_flags: U32::new(LE, elf::FileFlags(0)),
        e_ehsize: U16::new(LE, size_of::<elf::FileHeader64<Le>>() as u16),
        e_phentsize: U16::new(LE, size_of::<elf::ProgramHeader64<Le>>() as u16),
        e_phnum: U16::new(LE, count),
        e_shentsize: U16::new(LE, 0),
        e_shnum: U16::new(LE, 0),
        e_shstrndx: U16::new(LE, elf::SymbolSection(0)),
    }
}

/// Where a segment is in the file, and in memory.
struct Placed {
    offset: u64,
    stored: u64,
    memory: u64,
    start: u64,
    align: u64,
}

fn program_header(
    kind: elf::ProgramType,
    flags: elf::ProgramFlags,
    placed: Placed,
) -> elf::ProgramHeader64<Le> {
    elf::ProgramHeader64 {
        p_type: U32::new(LE, kind),
        p_flags: U32::new(LE, flags),
        p_offset: U64::new(LE, placed.offset),
        p_vaddr: U64::new(LE, placed.start),
        p_paddr: U64::new(LE, 0),
        p_filesz: U64::new(LE, placed.stored),
        p_memsz: U64::new(LE, placed.memory),
        p_align: U64::new(LE, placed.align),
    }
}

/// `PROT_READ`, `PROT_WRITE`, `PROT_EXEC` are 1, 2, 4; in an ELF file these are 4, 2, 1.
fn flags(vma: &Vma) -> elf::ProgramFlags {
    let prot = u32::from(vma.prot);
    elf::ProgramFlags((prot & 1) << 2 | prot & 2 | prot >> 2 & 1)
}

fn notes(kept: &Kept, process: &ProcessImage) -> Result<Vec<u8>, CheckpointError> {
    let mut all = Vec::new();
    let mut threads = process.threads.iter().filter(|thread| thread.ended.is_none());
    // a debugger takes the first one for the one to begin with
    if let Some(first) = threads.next() {
        of_thread(&mut all, first, process.pid);
    }
    note(&mut all, elf::ELF_NOTE_CORE, elf::NT_PRPSINFO, &prpsinfo(kept, process)?);
    note(&mut all, elf::ELF_NOTE_CORE, elf::NT_AUXV, &process.memory.mm.auxv);
    note(&mut all, elf::ELF_NOTE_CORE, elf::NT_FILE, &mapped_files(kept));
    threads.for_each(|thread| of_thread(&mut all, thread, process.pid));
    Ok(all)
}

fn note(all: &mut Vec<u8>, name: &[u8], kind: elf::NoteType, content: &[u8]) {
    let header = elf::NoteHeader64::<Le> {
        n_namesz: U32::new(LE, name.len() as u32 + 1),
        n_descsz: U32::new(LE, content.len() as u32),
        n_type: U32::new(LE, kind),
    };
    all.extend(bytes_of(&header));
    for part in [&[name, &[0]].concat()[..], content] {
        all.extend(part);
        all.resize(all.len().next_multiple_of(4), 0);
    }
}

fn of_thread(all: &mut Vec<u8>, thread: &ThreadImage, pid: i32) {
    let mut status = [0; PRSTATUS];
    let mut put = |at: usize, bytes: &[u8]| status[at..at + bytes.len()].copy_from_slice(bytes);
    put(24, &thread.sigmask.to_le_bytes());
    for (at, number) in [(32, thread.tid), (40, pid), (44, pid)] {
        put(at, &number.to_le_bytes());
    }
    for (n, word) in thread.regs.iter().take(27).enumerate() {
        put(112 + 8 * n, &word.to_le_bytes());
    }
    let has_state = thread.xstate.len() >= FXSAVE;
    put(328, &i32::from(has_state).to_le_bytes());
    note(all, elf::ELF_NOTE_CORE, elf::NT_PRSTATUS, &status);
    if has_state {
        note(all, elf::ELF_NOTE_CORE, elf::NT_FPREGSET, &thread.xstate[..FXSAVE]);
        note(all, elf::ELF_NOTE_LINUX, elf::NT_X86_XSTATE, &thread.xstate);
    }
}

/// Who it is: ids, name, and its command line, which lies in its memory.
fn prpsinfo(kept: &Kept, process: &ProcessImage) -> Result<[u8; PRPSINFO], CheckpointError> {
    let mut info = [0; PRPSINFO];
    let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
    put(1, b"S");
    if let Some(first) = process.threads.first() {
        put(16, &first.creds.uids[0].to_le_bytes());
        put(20, &first.creds.gids[0].to_le_bytes());
        put(40, &first.comm[..first.comm.len().min(15)]);
    }
    for at in [24, 32, 36] {
        put(at, &process.pid.to_le_bytes());
    }
    let (start, end) = (process.memory.mm.arg_start, process.memory.mm.arg_end);
    let mut line = bytes_at(kept, start, end.saturating_sub(start).min(79) as usize)?;
    line.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    put(56, &line);
    Ok(info)
}

/// Private memory of the process; nothing where nothing is kept.
fn bytes_at(kept: &Kept, start: u64, len: usize) -> Result<Vec<u8>, CheckpointError> {
    let mut found = vec![0; len];
    let pages = PageRange::new(
        start / PAGE_SIZE * PAGE_SIZE,
        start.saturating_add(len as u64).div_ceil(PAGE_SIZE).saturating_mul(PAGE_SIZE),
    );
    let Some(private) = kept.contents.memory.processes.get(&FIRST) else { return Ok(found) };
    kept.each(&private.extents, pages, |content| {
        if let Content::Bytes(from, bytes) = content {
            let wanted = (start..).zip(&mut found);
            for (addr, byte) in wanted.filter(|(addr, _)| (from..from + bytes.len() as u64).contains(addr)) {
                *byte = bytes[(addr - from) as usize];
            }
        }
        Ok::<_, CheckpointError>(())
    })?;
    Ok(found)
}

/// `NT_FILE`: count, page size; start, end, offset in pages of each; their names.
fn mapped_files(kept: &Kept) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;
    let private = kept.contents.memory.processes.get(&FIRST);
    let vmas = private.into_iter().flat_map(|private| &private.layout.vmas);
    let files: Vec<_> = vmas
        .filter_map(|vma| match &vma.backing {
            Backing::File { path } => Some((vma, path)),
            _ => None,
        })
        .collect();
    let mut words = vec![files.len() as u64, PAGE_SIZE];
    words.extend(files.iter().flat_map(|(vma, _)| [vma.start, vma.end, vma.offset / PAGE_SIZE]));
    let mut all: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    for (_, path) in files {
        all.extend(path.as_path().as_os_str().as_bytes());
        all.push(0);
    }
    all
}
