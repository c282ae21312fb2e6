//! Operation sequences over one topic and readers of every policy.
#![cfg_attr(fuzzing, no_main)]

ron_fuzz::target!(ron_fuzz::bus_ops);
