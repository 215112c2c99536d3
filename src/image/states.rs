//! States of one process or thread by name: what a state is, only the file of its kind knows (`state/seam.rs`). Here it is a name and
//! the bytes that this file made of it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// States in the order of the list of their kinds, each by the name that never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct States(Vec<(Cow<'static, str>, Vec<u8>)>);

impl States {
    /// The bytes of a state.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, bytes)| bytes.as_slice())
    }

    /// Adds a state, or takes these bytes for it.
    pub fn set(&mut self, name: &'static str, bytes: Vec<u8>) {
        match self.0.iter_mut().find(|(own, _)| own == name) {
            Some((_, old)) => *old = bytes,
            None => self.0.push((Cow::Borrowed(name), bytes)),
        }
    }

    /// Names and bytes, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (name.as_ref(), bytes.as_slice()))
    }
}
