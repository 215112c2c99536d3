//! Files of a process that were changed while it was in the drawer.
//!
//! In a move the same inode is the same content, for no time passes; here only the stamps or the recorded content tell. What the
//! process itself could write to (an open file, a shared mapping) may have gone on without it, and is told of.

use std::collections::BTreeSet;

use super::contents::Memory;
use crate::image::files::{AtPath, ContentHashes, FileIdentity};
use crate::image::memory::VmaFlags;
use crate::image::{Backing, FilePath, Note, Obstacle, PAGE_SIZE, TreeImage};
use crate::state::files::content_hash;
use crate::state::files::identity::identity_of_path;

/// A regular file that a process has open or mapped.
#[derive(Clone, Debug)]
struct UsedFile {
    object: String,
    path: FilePath,
    identity: FileIdentity,
    /// The process can write to it, here or elsewhere.
    written: bool,
    /// Bytes of it that mappings show, from its beginning; 0 if none.
    reach: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Changed files that the process would not survive, or would take for what they were.
    pub obstacles: Vec<Obstacle>,
    /// Changed files to which it goes on writing.
    pub notes: Vec<Note>,
    /// Files that must stay as they are until it runs, as they are here.
    relied_on: Vec<(FilePath, FileIdentity)>,
}

/// Compares all its files here with what they were when it was captured. Those that are others are no matter of this.
pub(super) fn since(tree: &TreeImage, memory: &Memory, hashes: &ContentHashes) -> Changes {
    let mut found = Changes::default();
    let mut told = BTreeSet::new();
    for file in used(tree, memory) {
        let Ok(here) = identity_of_path(file.path.as_path()) else { continue };
        let changed = file.identity.same_file(&here) && !file.identity.same_stamp(&here);
        match (changed, file.written) {
            (false, true) => {}
            (false, false) => found.relied_on.push((file.path, here)),
            (true, true) => match cut(&file, &here) {
                Some(obstacle) => found.obstacles.push(obstacle),
                None if told.insert(inode(&here)) => found.notes.push(written_to(&file, &here)),
                None => {}
            },
            (true, false) => match another_content(&file, &here, hashes) {
                Some(obstacle) => found.obstacles.push(obstacle),
                None => found.relied_on.push((file.path, here)),
            },
        }
    }
    found
}

impl Changes {
    /// Which of the files that it relies on were changed since they were compared.
    pub(super) fn meanwhile(&self) -> Vec<Obstacle> {
        let same = |path: &FilePath, then: &FileIdentity| {
            identity_of_path(path.as_path())
                .is_ok_and(|now| inode(&now) == inode(then) && now.same_stamp(then))
        };
        let changed = self.relied_on.iter().filter(|(path, then)| !same(path, then));
        changed
            .map(|(path, _)| {
                Obstacle::new(
                    format!("file {path}"),
                    "it was changed while the process was being made",
                    "restore again when nobody changes it",
                )
            })
            .collect()
    }
}

/// Gives the files that a stopped process writes to the stamps that they have now: what it wrote itself is no change.
pub(super) fn refresh(tree: &mut TreeImage, memory: &Memory) {
    let now: Vec<FileIdentity> = used(tree, memory)
        .into_iter()
        .filter(|file| file.written)
        .filter_map(|file| identity_of_path(file.path.as_path()).ok())
        .collect();
    let put = |identity: &mut FileIdentity| {
        if let Some(now) = now.iter().find(|now| identity.same_file(now)) {
            identity.clone_from(now);
        }
    };
    let mapped = tree.processes.iter_mut().flat_map(|process| &mut process.memory.files);
    mapped.for_each(|(_, identity)| put(identity));
    let open = tree.files.files.iter_mut().filter_map(|file| file.kind.identity());
    open.for_each(|(_, identity)| put(identity));
}

/// Those contents that were noted down of files that are still the same: one that was changed between that and the capture has
/// another content than was noted down.
pub(super) fn still_true(hashes: &ContentHashes, then: &TreeImage, captured: &TreeImage) -> ContentHashes {
    let then: Vec<_> = used(then, &Memory::default());
    let captured = used(captured, &Memory::default());
    let stale = |path: &FilePath| {
        let before = then.iter().find(|file| file.path == *path);
        let after = captured.iter().filter(|file| file.path == *path);
        before
            .is_some_and(|before| after.into_iter().any(|after| !after.identity.same_stamp(&before.identity)))
    };
    hashes.iter().filter(|(path, _)| !stale(path)).map(|(path, hash)| (path.clone(), *hash)).collect()
}

/// Its regular files, mapped and open.
fn used(tree: &TreeImage, memory: &Memory) -> Vec<UsedFile> {
    const S_IFREG: u32 = libc::S_IFREG;
    let mapped = tree.processes.iter().flat_map(|process| &process.memory.files).map(|(path, identity)| {
        let (reach, written) = shown(memory, path);
        let (object, path, identity) = (format!("mapped file {path}"), path.clone(), identity.clone());
        UsedFile { object, path, identity, written, reach }
    });
    let open = tree.files.files.iter().filter(|file| matches!(file.kind.at_path(), Some((AtPath::File, _))));
    let open = open.filter_map(|file| {
        let mut kind = file.kind.clone();
        let (path, identity) = kind.identity()?;
        let written = file.flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
        let (path, identity) = (path.clone(), identity.clone());
        Some(UsedFile { object: file.object(), path, identity, written, reach: 0 })
    });
    let regular =
        |file: &UsedFile| file.identity.mode & libc::S_IFMT == S_IFREG && !file.identity.is_made_up();
    let mut all: Vec<UsedFile> = mapped.chain(open).filter(regular).collect();
    let written: BTreeSet<_> =
        all.iter().filter(|file| file.written).map(|file| inode(&file.identity)).collect();
    for file in &mut all {
        file.written |= written.contains(&inode(&file.identity));
    }
    all
}

/// How far mappings of a file reach, and whether one of them can write to it.
fn shown(memory: &Memory, path: &FilePath) -> (u64, bool) {
    let all = memory.processes.values().flat_map(|private| &private.layout.vmas);
    let those = all.filter(|vma| matches!(&vma.backing, Backing::File { path: of } if of == path));
    those.fold((0, false), |(reach, written), vma| {
        let end = vma.offset.saturating_add(vma.range().len());
        (reach.max(end), written || (vma.shared && vma.has(VmaFlags::MAY_WRITE)))
    })
}

fn inode(identity: &FileIdentity) -> (u64, u64) {
    (identity.dev, identity.ino)
}

/// Memory of it is gone with the end of the file.
fn cut(file: &UsedFile, here: &FileIdentity) -> Option<Obstacle> {
    let (then, now) = (file.identity.size, here.size);
    let shown = then.next_multiple_of(PAGE_SIZE).min(file.reach);
    (now < then && now < shown).then(|| {
        let why = format!(
            "{} was changed since the checkpoint was made: it had {then} bytes and has {now}, and the process has mapped more",
            file.path
        );
        Obstacle::new(&file.object, why, "put back the file as it was, with its length")
    })
}

fn written_to(file: &UsedFile, here: &FileIdentity) -> Note {
    let (then, now) = (file.identity.size, here.size);
    let what = format!(
        "it was changed since the checkpoint was made: it had {then} bytes and has {now}; the process goes on with it as it is"
    );
    let object =
        if file.reach > 0 { file.object.clone() } else { format!("{}, open for writing", file.object) };
    Note::new(object, what)
}

/// The content decides, if it was noted down.
fn another_content(file: &UsedFile, here: &FileIdentity, hashes: &ContentHashes) -> Option<Obstacle> {
    let advice = "put back the file as it was; or start the program anew";
    let (path, then, now) = (&file.path, file.identity.size, here.size);
    let changed = format!("{path} was changed since the checkpoint was made");
    let why = match (hashes.get(path), then == now) {
        (_, false) => format!("{changed}: it had {then} bytes and has {now}"),
        (None, true) => {
            format!("{changed}, and its content was not noted down then (it is large, or new to it)")
        }
        (Some(wanted), true) => match content_hash(path) {
            Ok(found) if found == *wanted => return None,
            Ok(_) => format!("{changed}: it has another content of the same length"),
            Err(error) => format!("{changed}, and cannot be read: {error}"),
        },
    };
    Some(Obstacle::new(&file.object, why, advice))
}
