//! The source's session from hello to report.
