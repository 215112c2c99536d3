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
    /// Nothing more of the memory at the source is needed.
    Whole,
    /// It was ended for want of memory.
    CopyLost,
    Ask,
    AnswerRunning,
    AnswerLazily,
    AnswerNever,
    AnswerDown,
    Goodbye,
    /// What the copy was signalled.
    Signals,
}

impl Message {
    pub(super) const ALL: [Message; 14] = [
        Message::Prepared,
        Message::Commit,
        Message::Abort,
        Message::Failed,
        Message::Running,
        Message::Whole,
        Message::CopyLost,
        Message::Ask,
        Message::AnswerRunning,
        Message::AnswerLazily,
        Message::AnswerNever,
        Message::AnswerDown,
        Message::Goodbye,
        Message::Signals,
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

    /// What it means to the source. `lazy`: its session knows that memory comes after the process.
    pub(super) fn to_source(self, lazy: bool) -> Option<SourceEvent> {
        match self {
            Message::Prepared => Some(SourceEvent::Prepared),
            Message::Failed => Some(SourceEvent::Failed),
            Message::Running if lazy => Some(SourceEvent::RunsLazily),
            Message::Running | Message::AnswerRunning => Some(SourceEvent::Running),
            Message::AnswerLazily => Some(SourceEvent::RunsLazily),
            Message::Whole => Some(SourceEvent::Whole),
            Message::CopyLost => Some(SourceEvent::CopyLost),
            Message::AnswerNever => Some(SourceEvent::Never),
            Message::AnswerDown => Some(SourceEvent::Unsettled),
            _ => None,
        }
    }
}
