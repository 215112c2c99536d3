//! The bytes of an entry: two blocks, of which the one counts that is sound and has the higher number.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::entry::{Entry, VERSION};

/// Bytes of a block.
pub(super) const SIZE: usize = 4096;

/// What a file says.
pub(super) fn read(file: &File, path: &Path) -> io::Result<Entry> {
    let mut bytes = vec![0; 2 * SIZE];
    let whole = match file.read_exact_at(&mut bytes, 0) {
        Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e),
        whole => whole.is_ok(),
    };
    let blocks = if whole { bytes.chunks_exact(SIZE) } else { [].chunks_exact(SIZE) };
    let entry = blocks.filter_map(decode).max_by_key(|entry| entry.number);
    entry.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display())))
}

/// `checksum (32) | length (4) | json | zeroes`
pub(super) fn encode(entry: &Entry) -> Vec<u8> {
    let json = serde_json::to_vec(entry).unwrap_or_default();
    let mut bytes = vec![0; SIZE];
    let len = json.len().min(SIZE - 36);
    bytes[32..36].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    bytes[36..36 + len].copy_from_slice(&json[..len]);
    let sum = blake3::hash(&bytes[32..]);
    bytes[..32].copy_from_slice(sum.as_bytes());
    bytes
}

/// What the bytes of a file say; `None` if they are damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Entry> {
    let sum = blake3::hash(bytes.get(32..)?);
    if bytes.get(..32)? != sum.as_bytes() {
        return None;
    }
    let len = u32::from_le_bytes(bytes.get(32..36)?.try_into().ok()?) as usize;
    let entry: Entry = serde_json::from_slice(bytes.get(36..36usize.checked_add(len)?)?).ok()?;
    (entry.version == VERSION).then_some(entry)
}
