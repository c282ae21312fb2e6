//! What processes answer to probes: `v1.health` and the head of HTTP.
#![cfg_attr(fuzzing, no_main)]

ron_fuzz::target!(ron_fuzz::probe_answers);
