//! The target's session: warm skeleton, page placement, activation.
