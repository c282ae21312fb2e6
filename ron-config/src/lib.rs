//! Layered, validated, explainable configuration with hot reload.
#![forbid(unsafe_code)]
