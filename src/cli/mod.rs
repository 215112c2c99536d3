//! The command line: one file per subcommand; text, progress, exit codes.
