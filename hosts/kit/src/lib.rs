//! What every host binary shares.
