//! Inputs and policies of the rewarder.
#![cfg_attr(fuzzing, no_main)]

ron_fuzz::target!(ron_fuzz::rewarder_documents);
