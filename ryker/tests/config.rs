//! The configuration: every key from every source, everything wrong in one error, layers, guards and changes.

#[path = "config/environment.rs"]
mod environment;
#[path = "config/files.rs"]
mod files;
#[path = "config/layers.rs"]
mod layers;
#[path = "config/properties.rs"]
mod properties;
#[path = "config/sources.rs"]
mod sources;
#[path = "config/values.rs"]
mod values;
