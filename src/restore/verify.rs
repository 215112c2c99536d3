//! `--verify` at the target: every page is hashed here as it is at the source, and compared before anything else
//! touches the memory.

use super::RestoreError;
use super::objects::Objects;
use super::skeleton::Skeleton;
use crate::image::memory::Layout;
use crate::state::digest;
use crate::transport::protocol::AreaDigest;

/// Hashes of all memory here.
pub fn hash(skeleton: &Skeleton, objects: &Objects) -> Result<Vec<AreaDigest>, RestoreError> {
    let mut all: Vec<AreaDigest> = digest::private(skeleton.pid, &skeleton.layout)?
        .into_iter()
        .map(|(start, pages, hash)| AreaDigest { start, object: None, pages, hash })
        .collect();
    for (id, file) in objects.iter() {
        let (start, pages, hash) = digest::object(id, file)?;
        all.push(AreaDigest { start, object: Some(id), pages, hash });
    }
    Ok(all)
}

/// Compares them with the source's; names every area that differs.
pub fn compare(ours: &[AreaDigest], theirs: &[AreaDigest], layout: &Layout) -> Result<(), RestoreError> {
    if ours.len() != theirs.len() {
        let counts = format!("{} areas at the source, {} here", theirs.len(), ours.len());
        return Err(RestoreError::Differs(counts));
    }
    let describe = |(a, b): (&AreaDigest, &AreaDigest)| {
        let vma = layout.vmas.iter().find(|v| v.start <= a.start && a.start < v.end);
        let what = vma.map(|v| format!("{:?}", v.backing)).unwrap_or_default();
        format!("{:#x} ({what}; {} pages at the source, {} here)", a.start, a.pages, b.pages)
    };
    let wrong: Vec<String> = theirs.iter().zip(ours).filter(|(a, b)| a != b).map(describe).collect();
    if wrong.is_empty() { Ok(()) } else { Err(RestoreError::Differs(wrong.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_differing_area_is_named() {
        let area = |hash| AreaDigest { start: 0x7000, object: None, pages: 3, hash };
        let layout = Layout::default();
        assert!(compare(&[area(1)], &[area(1)], &layout).is_ok());
        let error = compare(&[area(2)], &[area(1)], &layout).unwrap_err().to_string();
        assert!(error.contains("0x7000") && error.contains("3 pages"), "{error}");
        assert!(compare(&[], &[area(1)], &layout).is_err());
    }
}
