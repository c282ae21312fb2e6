//! Configurations of ryker: TOML, JSON and variables.
#![cfg_attr(fuzzing, no_main)]

ron_fuzz::target!(ron_fuzz::ryker_config);
