//! `/proc/PID/maps` and `smaps`, with the names of files byte by byte. The parser of the crate wants text and trims it, so it is
//! given a placeholder for each path.
//!
//! The kernel writes a line break in a path as `\012` there, and a backslash as it is (`seq_file_path(m, file, "\n")`): a name
//! with these four characters may be either. The link in `map_files` has it as it is; where that may not be read, what
//! is found under the name decides.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use procfs::FromBufRead as _;
use procfs::process::{MMapPath, MemoryMap, MemoryMaps};

const LINE_BREAK: &[u8] = b"\\012";

/// The mappings of a process.
pub fn maps(pid: i32) -> io::Result<Vec<MemoryMap>> {
    read(pid, "maps")
}

/// The same with sizes and flags; walks the page tables.
pub fn smaps(pid: i32) -> io::Result<Vec<MemoryMap>> {
    read(pid, "smaps")
}

fn read(pid: i32, file: &str) -> io::Result<Vec<MemoryMap>> {
    parse(pid, &std::fs::read(format!("/proc/{pid}/{file}"))?)
}

/// The mappings in the text of either file.
pub fn parse(pid: i32, text: &[u8]) -> io::Result<Vec<MemoryMap>> {
    let (text, names) = without_names(text);
    let mut maps = MemoryMaps::from_buf_read(&*text).map_err(io::Error::other)?.0;
    for map in &mut maps {
        let MMapPath::Path(placeholder) = &map.pathname else { continue };
        let index = placeholder.to_str().and_then(|name| name.strip_prefix('/')?.parse::<usize>().ok());
        if let Some(name) = index.and_then(|index| names.get(index)) {
            map.pathname = MMapPath::Path(path(pid, map.address, name));
        }
    }
    Ok(maps)
}

/// The text with a number in the place of each path, and the paths.
fn without_names(text: &[u8]) -> (Vec<u8>, Vec<&[u8]>) {
    let mut out = Vec::with_capacity(text.len());
    let mut names = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match name(line) {
            Some(name) => {
                out.extend_from_slice(&line[..line.len() - name.len() - 1]);
                out.extend_from_slice(format!("/{}\n", names.len()).as_bytes());
                names.push(name);
            }
            None => out.extend_from_slice(line),
        }
    }
    (out, names)
}

/// The path at the end of the first line of a mapping: what follows five fields (address, permissions, offset, device, inode) and
/// the spaces behind them. System V memory is no path.
fn name(line: &[u8]) -> Option<&[u8]> {
    if !matches!(line.first(), Some(b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut rest = line.strip_suffix(b"\n")?;
    for _ in 0..5 {
        rest = &rest[rest.iter().position(|byte| *byte == b' ')? + 1..];
    }
    let start = rest.iter().position(|byte| *byte != b' ')?;
    let name = &rest[start..];
    (name.starts_with(b"/") && !name.starts_with(b"/SYSV")).then_some(name)
}

fn path(pid: i32, (start, end): (u64, u64), name: &[u8]) -> PathBuf {
    let as_it_is = || PathBuf::from(OsString::from_vec(name.to_vec()));
    if !name.windows(LINE_BREAK.len()).any(|part| part == LINE_BREAK) {
        return as_it_is();
    }
    if let Ok(link) = std::fs::read_link(format!("/proc/{pid}/map_files/{start:x}-{end:x}"))
        && escaped(link.as_os_str().as_bytes()) == name
    {
        return link;
    }
    let literal = as_it_is();
    if Path::new(&literal).exists() { literal } else { PathBuf::from(OsString::from_vec(unescaped(name))) }
}

fn escaped(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in name {
        match byte {
            b'\n' => out.extend_from_slice(LINE_BREAK),
            other => out.push(*other),
        }
    }
    out
}

fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = name;
    while let Some((first, behind)) = rest.split_first() {
        match rest.strip_prefix(LINE_BREAK) {
            Some(behind) => {
                out.push(b'\n');
                rest = behind;
            }
            None => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_out_byte_by_byte() {
        let text = b"55-56 r--p 00000000 00:00 7    / x \xfc\\012\nSize: 4 kB\n55-56 rw-p 0 00:00 0 [heap]\n";
        let (text, names) = without_names(text);
        assert_eq!(names, [&b"/ x \xfc\\012"[..]]);
        assert_eq!(text, b"55-56 r--p 00000000 00:00 7    /0\nSize: 4 kB\n55-56 rw-p 0 00:00 0 [heap]\n");
        assert_eq!(unescaped(b"\\012a\\013\\012"), b"\na\\013\n");
        assert_eq!(escaped(b"\na\\013"), b"\\012a\\013");
    }

    #[test]
    fn our_own_maps_are_all_there() {
        let own = std::process::id() as i32;
        let exe = std::env::current_exe().unwrap();
        let found = maps(own).unwrap().iter().any(|map| map.pathname == MMapPath::Path(exe.clone()));
        assert!(found && smaps(own).unwrap().iter().any(|map| !map.extension.is_empty()));
    }
}
