//! ulpm
