//! Open files and descriptors of a process, as data.
