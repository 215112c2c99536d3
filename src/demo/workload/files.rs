//! A file kept busy: records appended through one description, followed through a second with an
//! offset of its own, and read back at random. At 1 MiB the file begins anew.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use super::board::Board;
use super::memory::{Random, mixed};

const RECORD: usize = 64;
const RECORDS: u64 = (1 << 20) / RECORD as u64;
const PAUSE: Duration = Duration::from_millis(5);

/// Appends and reads back until told to stop.
pub(super) fn keep_busy(board: &Board, dir: &Path) {
    if let Err(error) = append_and_follow(board, &dir.join("records")) {
        board.fail(format!("file: {error}"));
    }
}

fn append_and_follow(board: &Board, path: &Path) -> io::Result<()> {
    File::create(path)?;
    let mut writer = OpenOptions::new().append(true).open(path)?;
    let mut follower = File::open(path)?;
    let mut random = Random::new(7);
    let mut generation = 0;
    let mut number = 0;
    while !board.stopping() {
        writer.write_all(&record(generation, number))?;
        number += 1;
        compare(
            board,
            "the record at the follower's offset",
            &read_next(&mut follower)?,
            generation,
            number - 1,
        );
        let earlier = random.below(usize::try_from(number).unwrap_or(usize::MAX)) as u64;
        let mut found = [0; RECORD];
        follower.read_exact_at(&mut found, earlier * RECORD as u64)?;
        compare(board, "a record read back", &found, generation, earlier);
        let length = follower.metadata()?.len();
        if length != number * RECORD as u64 {
            board.fail(format!("file: {length} bytes long after {number} records"));
        }
        if number == RECORDS {
            writer.set_len(0)?;
            follower.rewind()?;
            generation += 1;
            number = 0;
        }
        board.records.fetch_add(1, Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn read_next(follower: &mut File) -> io::Result<[u8; RECORD]> {
    let mut found = [0; RECORD];
    follower.read_exact(&mut found)?;
    Ok(found)
}

fn compare(board: &Board, what: &str, found: &[u8; RECORD], generation: u64, number: u64) {
    if *found != record(generation, number) {
        board.fail(format!("file: {what} is not record {number}"));
    }
}

fn record(generation: u64, number: u64) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let seed = (generation << 32) ^ number;
    for (word, chunk) in (0_u64..).zip(bytes.as_chunks_mut::<8>().0) {
        *chunk = mixed((seed << 3) + word + 1).to_ne_bytes();
    }
    bytes
}
