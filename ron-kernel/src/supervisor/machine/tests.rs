//! Tables and properties of the transition function.
