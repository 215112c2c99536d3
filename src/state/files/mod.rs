//! Descriptors: one file per kind of open file, each knows how to capture it and how to put it back.
