//! `--verify` at the target: every page is hashed here as it is at the source, and compared before anything else
//! touches the memory.

use std::collections::{BTreeMap, BTreeSet};

use super::RestoreError;
use super::objects::Objects;
use super::skeleton::Skeleton;
use crate::image::memory::Layout;
use crate::image::{PageOwner, ProcessIndex, RangeSet};
use crate::state::digest;
use crate::transport::protocol::AreaDigest;

/// Hashes of the private memory of a process here.
pub fn private(of: ProcessIndex, skeleton: &Skeleton) -> Result<Vec<AreaDigest>, RestoreError> {
    let owner = PageOwner::Process(of);
    let all = digest::private(skeleton.pid, &skeleton.layout, &RangeSet::default())?;
    Ok(all.into_iter().map(|(start, pages, hash)| AreaDigest { owner, start, pages, hash }).collect())
}

/// Hashes of all memory objects here.
pub fn objects(objects: &Objects) -> Result<Vec<AreaDigest>, RestoreError> {
    let hash = |(id, file): (_, &_)| {
        let (start, pages, hash) = digest::object(id, file, &RangeSet::default())?;
        Ok(AreaDigest { owner: PageOwner::Object(id), start, pages, hash })
    };
    objects.iter().map(hash).collect()
}

/// Compares them with the source's; names every area that differs.
pub fn compare(ours: &[AreaDigest], theirs: &[AreaDigest], layout: &Layout) -> Result<(), RestoreError> {
    let (ours, theirs) = (by_place(ours), by_place(theirs));
    let places: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let differing = places.into_iter().filter(|place| ours.get(place) != theirs.get(place));
    let wrong: Vec<String> = differing
        .map(|place| {
            let what = match place {
                (PageOwner::Object(id), _) => {
                    layout.objects.iter().find(|o| o.id == *id).map(|o| format!("{o:?}"))
                }
                (PageOwner::Process(_), at) => layout
                    .vmas
                    .iter()
                    .find(|v| v.start <= *at && *at < v.end)
                    .map(|v| format!("{:?}", v.backing)),
            };
            let pages = |side: Option<&&AreaDigest>| match side {
                Some(area) => format!("{} pages", area.pages),
                None => "nothing".to_owned(),
            };
            let (there, here) = (pages(theirs.get(place)), pages(ours.get(place)));
            format!("{:#x} ({}; {there} at the source, {here} here)", place.1, what.unwrap_or_default())
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(RestoreError::Differs(wrong.join(", "))) }
}

fn by_place(all: &[AreaDigest]) -> BTreeMap<(PageOwner, u64), &AreaDigest> {
    all.iter().map(|area| ((area.owner, area.start), area)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::FIRST;

    #[test]
    fn a_differing_area_is_named() {
        let area = |hash| AreaDigest { owner: PageOwner::Process(FIRST), start: 0x7000, pages: 3, hash };
        let layout = Layout::default();
        assert!(compare(&[area(1)], &[area(1)], &layout).is_ok());
        let error = compare(&[area(2)], &[area(1)], &layout).unwrap_err().to_string();
        assert!(error.contains("0x7000") && error.contains("3 pages"), "{error}");
        assert!(compare(&[], &[area(1)], &layout).is_err());
    }
}
