//! What the two sides say to each other, reduced to what matters here.

use super::{SourceEvent, TargetEvent};

/// What one side may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Message {
    Prepared,
    Commit,
    Abort,
    Failed,
    Running,
    Ask,
    AnswerRunning,
    AnswerNever,
    AnswerDown,
    Goodbye,
}

impl Message {
    pub(super) const ALL: [Message; 10] = [
        Message::Prepared,
        Message::Commit,
        Message::Abort,
        Message::Failed,
        Message::Running,
        Message::Ask,
        Message::AnswerRunning,
        Message::AnswerNever,
        Message::AnswerDown,
        Message::Goodbye,
    ];

    /// What it means to the target; `None`: it is none for it.
    pub(super) fn to_target(self) -> Option<TargetEvent> {
        match self {
            Message::Commit => Some(TargetEvent::Commit),
            Message::Abort => Some(TargetEvent::Abort),
            Message::Goodbye => Some(TargetEvent::Goodbye),
            _ => None,
        }
    }

    /// What it means to the source.
    pub(super) fn to_source(self) -> Option<SourceEvent> {
        match self {
            Message::Prepared => Some(SourceEvent::Prepared),
            Message::Failed => Some(SourceEvent::Failed),
            Message::Running | Message::AnswerRunning => Some(SourceEvent::Running),
            Message::AnswerNever => Some(SourceEvent::Never),
            Message::AnswerDown => Some(SourceEvent::Unsettled),
            _ => None,
        }
    }
}
