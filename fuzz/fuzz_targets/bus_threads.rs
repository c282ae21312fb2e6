//! Publishers and readers in threads of their own.
#![cfg_attr(fuzzing, no_main)]

ron_fuzz::target!(ron_fuzz::bus_threads);
