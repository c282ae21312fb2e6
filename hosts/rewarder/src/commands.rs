//! The subcommands.

use std::error::Error;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Parser, Subcommand, ValueEnum};
use svc_rewarder::generate::{inputs, Size};
use svc_rewarder::golden::{Vector, VECTORS};
use svc_rewarder::{
    compute, tidy, EpochId, Manifest, Mode, Name, Phase, Policy, PublicKey, Reader, Run, Sealed,
    SignedPolicy, TrustedKeys, Unwatched, BYTES_MAX, MANIFEST_BYTES_MAX, POLICY_BYTES_MAX,
};
use zeroize::Zeroizing;

use crate::files::{self, Failure};

/// Exact payouts from sealed inputs: computed, verified and proved offline
#[derive(Debug, Parser)]
#[command(
    name = "svc-rewarder",
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done; 1 failed, refused or different; 2 usage."
)]
pub(crate) struct Invocation {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compute the golden vectors, and compare them with their committed digests
    Vectors {
        /// Of this size only
        #[arg(long, value_name = "s|m|l")]
        size: Option<SizeName>,
    },
    /// Compute inputs by a policy, and write the manifest; nothing is paid
    Compute {
        #[command(flatten)]
        from: From,
        /// The manifest's file; else it goes to standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Compute a manifest again from its inputs and policy, and compare
    Verify {
        /// The manifest's file
        #[arg(value_name = "MANIFEST")]
        manifest: PathBuf,
        #[command(flatten)]
        from: From,
    },
    /// Make inputs from a seed, the same for ever
    Generate {
        /// How large: 1 000, 10 000 or 50 000 actors, of 10 events each
        #[arg(long, value_name = "s|m|l")]
        size: SizeName,
        /// Other inputs for each
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
        /// Whose inputs they are
        #[arg(long, value_name = "NAME", default_value = "demo")]
        tenant: Name,
        /// The epoch they are for
        #[arg(long, value_name = "ID", default_value = "demo")]
        epoch: EpochId,
        /// Their file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign and check policies
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Make a key to sign with, and print the key to verify with
    Key {
        /// The key's file, which must not be there yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign a policy, which may have whitespace and its fields in any order
    Sign {
        /// The policy's file
        #[arg(value_name = "FILE")]
        policy: PathBuf,
        /// The file of the key to sign with
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The signed policy's file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Show what a signed policy says, and whether its signature counts
    Check {
        /// The signed policy's file
        #[arg(value_name = "FILE")]
        policy: PathBuf,
        #[command(flatten)]
        trusted: Trusted,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct From {
    /// The inputs' file
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// The signed policy's file
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    #[command(flatten)]
    trusted: Trusted,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Trusted {
    /// A key that may sign policies, as ed25519:HEX; may be repeated. Without one, whoever signed is shown and not judged
    #[arg(long = "trusted-key", value_name = "KEY")]
    trusted_key: Vec<PublicKey>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SizeName {
    S,
    M,
    L,
}

impl SizeName {
    fn size(self) -> Size {
        match self {
            SizeName::S => Size::S,
            SizeName::M => Size::M,
            SizeName::L => Size::L,
        }
    }
}

/// Does it. `false` is done, and different from what it should be.
pub(crate) fn run(command: Command) -> Result<bool, Box<dyn Error>> {
    let mut out = io::stdout().lock();
    let done = match command {
        Command::Vectors { size } => vectors(&mut out, size.map(SizeName::size)),
        Command::Compute { from, out: file } => {
            let run = from.run(None, &mut io::stderr())?;
            match file {
                Some(path) => {
                    files::write(&path, &run.bytes)?;
                    writeln!(out, "commitment {}", run.commitment).map_err(Into::into)
                }
                None => out.write_all(&run.bytes).map_err(Into::into),
            }
            .map(|()| true)
        }
        Command::Verify { manifest, from } => verify(&mut out, &manifest, &from),
        Command::Generate {
            size,
            seed,
            tenant,
            epoch,
            out: path,
        } => {
            let bytes = inputs(size.size(), seed, &tenant, &epoch);
            files::write(&path, &bytes)?;
            writeln!(out, "inputs_cid {}", Sealed::of(&bytes)?.cid())?;
            Ok(true)
        }
        Command::Policy { command } => policy(&mut out, command),
    };
    out.flush()?;
    done
}

impl From {
    /// `manifest` is what the run should be of, where there is one.
    fn run(
        &self,
        manifest: Option<&Manifest>,
        said: &mut dyn io::Write,
    ) -> Result<Run, Box<dyn Error>> {
        let policy = self.trusted.read(&self.policy, said)?;
        let bytes = files::read(&self.inputs, BYTES_MAX)?;
        let located = |error: &dyn Error| Failure::new(&self.inputs, error);
        let sealed = match manifest {
            Some(manifest) => Sealed::open(&bytes, &manifest.inputs_cid),
            None => Sealed::of(&bytes),
        };
        let sealed = sealed.map_err(|error| located(&error))?;
        if let Some(manifest) = manifest {
            let is = policy.is(&manifest.policy.hash);
            is.map_err(|stale| Failure::new(&self.policy, stale))?;
        }
        let reader = Reader::new(&bytes).map_err(|error| located(&error))?;
        let (tenant, epoch_id) = match manifest {
            Some(manifest) => (&manifest.tenant, &manifest.epoch_id),
            None => (&reader.header().tenant, &reader.header().epoch_id),
        };
        let run = compute(tenant, epoch_id, &sealed, &policy, &mut Unwatched);
        Ok(run.map_err(|error| located(&error))?)
    }
}

impl Trusted {
    fn read(&self, path: &Path, said: &mut dyn io::Write) -> Result<Policy, Box<dyn Error>> {
        let bytes = files::read(path, POLICY_BYTES_MAX)?;
        let located = |error: &dyn Error| Failure::new(path, error);
        let signed = SignedPolicy::read(&bytes).map_err(|error| located(&error))?;
        let key = signed.key().map_err(|error| located(&error))?;
        let trusted: TrustedKeys = match self.trusted_key.as_slice() {
            [] => {
                writeln!(said, "policy signed with {key}; nobody was named who may")?;
                [key].into_iter().collect()
            }
            keys => keys.iter().copied().collect(),
        };
        Ok(signed.verify(&trusted).map_err(|error| located(&error))?)
    }
}

fn verify(out: &mut dyn io::Write, path: &Path, from: &From) -> Result<bool, Box<dyn Error>> {
    let bytes = files::read(path, MANIFEST_BYTES_MAX)?;
    let manifest = Manifest::read(&bytes).map_err(|error| Failure::new(path, error))?;
    let run = from.run(Some(&manifest), out)?;
    match manifest.difference(&run.manifest) {
        Some(difference) => {
            let (path, left, right) = (difference.path, difference.left, difference.right);
            writeln!(
                out,
                "different: {path} is {left} in the manifest, and {right} when computed again"
            )?;
            Ok(false)
        }
        None => {
            let (payouts, events) = (run.manifest.counts.paid, run.manifest.counts.events);
            writeln!(
                out,
                "verified: {payouts} payouts from {events} events, commitment {}",
                run.commitment
            )?;
            Ok(true)
        }
    }
}

fn policy(out: &mut dyn io::Write, command: PolicyCommand) -> Result<bool, Box<dyn Error>> {
    match command {
        PolicyCommand::Key { out: path } => {
            let mut seed = Zeroizing::new([0; 32]);
            getrandom::fill(seed.as_mut())?;
            let mut digits = Zeroizing::new(String::with_capacity(65));
            for byte in seed.iter() {
                for digit in [byte >> 4, byte & 15] {
                    digits.push(char::from_digit(digit.into(), 16).unwrap_or_default());
                }
            }
            digits.push('\n');
            files::write_key(&path, &digits)?;
            let key = svc_rewarder::SigningKey::from_seed(&seed);
            writeln!(out, "{}", key.public())?;
        }
        PolicyCommand::Sign {
            policy,
            key,
            out: path,
        } => {
            let key = files::read_key(&key)?;
            let text = files::read(&policy, POLICY_BYTES_MAX)?;
            let content = tidy(&text).map_err(|error| Failure::new(&policy, error))?;
            let signed = key
                .sign(&content)
                .map_err(|error| Failure::new(&policy, error))?;
            files::write(&path, &signed)?;
            let policy = Policy::read(&content)?;
            writeln!(out, "policy_hash {}", policy.hash())?;
        }
        PolicyCommand::Check { policy, trusted } => {
            let policy = trusted.read(&policy, out)?;
            let mode = match policy.mode() {
                Mode::ProRata => "pro_rata",
                Mode::Tariff => "tariff",
            };
            let (id, version) = (policy.id(), policy.version());
            writeln!(
                out,
                "{id} version {version}, {mode}, paid by {}",
                policy.funding_account()
            )?;
            writeln!(out, "policy_hash {}", policy.hash())?;
        }
    }
    Ok(true)
}

/// A table: how many milliseconds each phase of each vector took, and whether it came to what it should.
fn vectors(out: &mut dyn io::Write, size: Option<Size>) -> Result<bool, Box<dyn Error>> {
    write!(out, "{:12}{:>8}{:>8}", "vector", "events", "hash")?;
    for phase in Phase::ALL {
        write!(out, "{:>9}", phase.name())?;
    }
    writeln!(out, "{:>9}", "all (ms)")?;
    let (mut right, mut count) = (true, 0);
    let chosen = |vector: &&Vector| size.is_none_or(|size| size == vector.size);
    for vector in VECTORS.iter().filter(chosen) {
        right &= measured(out, vector)?;
        count += 1;
    }
    if right {
        writeln!(out, "{count} vectors, all digests as committed")?;
    }
    Ok(right)
}

fn measured(out: &mut dyn io::Write, vector: &Vector) -> Result<bool, Box<dyn Error>> {
    let (tenant, epoch_id) = vector.run_of()?;
    let (bytes, policy) = (vector.inputs()?, vector.policy()?);
    let begun = Instant::now();
    let sealed = Sealed::of(&bytes)?;
    // When each phase began.
    let mut marks = Vec::new();
    let mut watch = |_: Phase, done| {
        if done == 0 {
            marks.push(Instant::now());
        }
        ControlFlow::Continue(())
    };
    let run = compute(&tenant, &epoch_id, &sealed, &policy, &mut watch)?;
    marks.push(Instant::now());
    let name = format!("{} {}", vector.size.name(), vector.policy);
    write!(out, "{name:12}{:>8}", run.manifest.counts.events)?;
    let ms = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
    let mut from = begun;
    for (at, to) in marks.iter().enumerate() {
        let width = if at == 0 { 8 } else { 9 };
        write!(out, "{:>width$.2}", ms(from, *to))?;
        from = *to;
    }
    writeln!(out, "{:>9.2}", ms(begun, from))?;
    let differences = vector.differences(&run);
    for difference in &differences {
        let (path, left, right) = (&difference.path, &difference.left, &difference.right);
        writeln!(out, "different: {path} is {right}, and should be {left}")?;
    }
    Ok(differences.is_empty())
}
