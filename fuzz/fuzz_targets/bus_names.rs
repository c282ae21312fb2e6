//! Names of topics and readers, and patterns of tails.
#![cfg_attr(fuzzing, no_main)]

ron_fuzz::target!(ron_fuzz::bus_names);
