//! What the fuzz targets run. Each takes any bytes and panics when a law of the library is broken.

mod answers;
mod event;
mod input;
mod names;
mod owed;
mod replay;
mod rewarder;
mod ryker_config;
mod ryker_ops;
mod threads;
mod world;

pub use answers::probe_answers;
pub use names::bus_names;
pub use replay::replay;
pub use rewarder::rewarder_documents;
pub use ryker_config::ryker_config;
pub use ryker_ops::ryker_ops;
pub use threads::bus_threads;
pub use world::bus_ops;

/// The `main` of a target: the fuzzer's, or without one a replay of the files and directories it is given.
#[macro_export]
macro_rules! target {
    ($run:path) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $run(bytes));

        #[cfg(not(fuzzing))]
        fn main() -> std::process::ExitCode {
            $crate::replay(std::env::args_os().skip(1), $run)
        }
    };
}
