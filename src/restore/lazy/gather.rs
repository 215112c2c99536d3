//! Huge pages that arrive in parts: they are placed as wholes. Pure.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::space::Content;
use crate::image::{PageOwner, PageRange};
use crate::transport::lane::LaneKind;

/// Parts that have arrived: by lane and the page's first byte; what there is, and how many bytes of it.
#[derive(Debug, Default)]
pub(super) struct Gathered(BTreeMap<(LaneKind, PageOwner, u64), (BytesMut, u64)>);

impl Gathered {
    /// A part of a page is there. Returns the page when it is whole.
    pub(super) fn add(
        &mut self,
        lane: LaneKind,
        owner: PageOwner,
        page: PageRange,
        part: PageRange,
        content: &Content,
    ) -> Option<Bytes> {
        let key = (lane, owner, page.start);
        let (buffer, have) = self.0.entry(key).or_insert_with(|| (BytesMut::zeroed(page.len() as usize), 0));
        if let Content::Data(data) = content {
            let at = (part.start - page.start) as usize;
            buffer[at..at + data.len()].copy_from_slice(data);
        }
        *have += part.len();
        if *have < page.len() {
            return None;
        }
        self.0.remove(&key).map(|(whole, _)| whole.freeze())
    }

    /// A lane broke: the rest of its pages is not coming. Returns which ones.
    pub(super) fn lost(&mut self, lane: LaneKind) -> Vec<(PageOwner, u64)> {
        let torn: Vec<_> = self.0.keys().filter(|(l, ..)| *l == lane).copied().collect();
        self.0.retain(|(l, ..), _| *l != lane);
        torn.into_iter().map(|(_, owner, start)| (owner, start)).collect()
    }
}
