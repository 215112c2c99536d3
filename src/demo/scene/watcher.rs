//! Who looks on: is told what happens, line by line, and may ask to stop.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::SceneError;

type Line = dyn Fn(&str) + Send + Sync;

/// Where progress goes and where a wish to stop comes from. Clones are the same watcher.
#[derive(Clone)]
pub struct Watcher {
    line: Option<Arc<Line>>,
    stop: Arc<AtomicBool>,
}

impl Watcher {
    /// A watcher that is told each line of progress.
    pub fn new(line: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { line: Some(Arc::new(line)), stop: Arc::default() }
    }

    /// A watcher that hears nothing.
    pub fn silent() -> Self {
        Self { line: None, stop: Arc::default() }
    }

    /// Asks the scene to end at its next step.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Tells a line.
    pub(super) fn say(&self, line: &str) {
        if let Some(tell) = &self.line {
            tell(line);
        }
    }

    /// Whether nobody has seen the lines told so far.
    pub(super) fn is_silent(&self) -> bool {
        self.line.is_none()
    }

    /// An error if the scene is to end.
    pub(super) fn go_on(&self) -> Result<(), SceneError> {
        if self.stop.load(Ordering::Relaxed) { Err(SceneError::Interrupted) } else { Ok(()) }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("stop", &self.stop).finish_non_exhaustive()
    }
}
