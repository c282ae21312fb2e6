//! Small runnable programs, one idea each.
