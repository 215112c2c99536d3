//! The agent beside the source process.
