# The verbs of this repository; `just` lists them. CONTRIBUTING.md says when to use which.

_list:
    @just --list

# Does it compile?
check:
    cargo check --workspace --all-targets --all-features

# The README's test command.
test:
    cargo test --workspace

# Builds that tokio-console can ask, which need a flag for the whole tree.
test-console:
    RUSTFLAGS="--cfg tokio_unstable" CARGO_TARGET_DIR=target/console cargo test -p ron-host --features console --lib
    RUSTFLAGS="--cfg tokio_unstable" CARGO_TARGET_DIR=target/console cargo test -p micronode --features console --test console

clippy:
    cargo clippy --workspace --all-targets --all-features -- -D warnings

fmt:
    cargo fmt --all

docs:
    RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --all-features --no-deps

# The repository's own checks; `just xtask arrows` runs one.
xtask check="all":
    cargo xtask {{check}}

# Compare the public API with the snapshots.
api:
    cargo xtask api

# Write the snapshots of the public API.
bless:
    cargo xtask api --bless

# Everything, as the project's CI runs it.
ci:
    .ci/run
