//! What cargo and git say about the repository: packages, their dependencies and targets, and the files in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};
use serde_json::Value;

/// The product, in dependency order. A library that is not a member yet is skipped by every check.
pub(crate) const LIBRARIES: [&str; 5] = [
    "ron-bus",
    "ron-config",
    "ron-metrics",
    "ron-kernel",
    "ryker",
];

/// The nightly that cargo-public-api 0.52.0 can read; any other nightly is the second choice.
const NIGHTLY: &str = "nightly-2026-05-20";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `normal`, `dev` or `build`.
    pub(crate) kind: String,
    /// Where a path dependency lies.
    pub(crate) path: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, `bench`, `example` or `custom-build`.
    pub(crate) kind: String,
    pub(crate) source: PathBuf,
}

#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Relative to the root, with forward slashes.
    pub(crate) dir: String,
    pub(crate) edition: String,
    pub(crate) rust_version: Option<String>,
    pub(crate) features: Vec<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Where the checks put what they build: one place per check under cargo's target directory.
    scratch: PathBuf,
    /// The members, then the members of `fuzz` and `bench`, which are workspaces of their own.
    pub(crate) packages: Vec<Package>,
}

impl Workspace {
    pub(crate) fn load() -> Result<Self> {
        let manifest = output(Command::new("cargo").args([
            "locate-project",
            "--workspace",
            "--message-format=plain",
        ]))?;
        let root = Path::new(manifest.trim())
            .parent()
            .context("the root manifest has no directory")?
            .to_path_buf();
        let metadata = metadata(&root, &["--no-deps"])?;
        let target = metadata["target_directory"]
            .as_str()
            .context("cargo metadata without target_directory")?;
        let mut packages = packages(&metadata, &root)?;
        for own in ["fuzz", "bench"] {
            if root.join(own).join("Cargo.toml").exists() {
                let metadata = self::metadata(&root.join(own), &["--no-deps"])?;
                packages.extend(self::packages(&metadata, &root)?);
            }
        }
        Ok(Self {
            scratch: Path::new(target).join("xtask"),
            root,
            packages,
        })
    }

    /// The libraries that exist, in dependency order.
    pub(crate) fn libraries(&self) -> Vec<&Package> {
        LIBRARIES
            .iter()
            .filter_map(|name| self.package(name))
            .collect()
    }

    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// A directory that survives between runs, so that builds in it are warm.
    pub(crate) fn scratch(&self, check: &str) -> PathBuf {
        self.scratch.join(check)
    }

    /// Where cargo puts binaries of the dev profile.
    pub(crate) fn binaries(&self) -> PathBuf {
        self.scratch.with_file_name("debug")
    }

    /// Every file that is tracked or would be if it were added, relative to the root, sorted.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let listed = output(Command::new("git").current_dir(&self.root).args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ]))?;
        let mut files: Vec<String> = listed
            .lines()
            .filter(|file| self.root.join(file).is_file())
            .map(str::to_string)
            .collect();
        files.sort();
        files.dedup();
        Ok(files)
    }

    pub(crate) fn read(&self, file: &str) -> Result<String> {
        std::fs::read_to_string(self.root.join(file)).with_context(|| format!("cannot read {file}"))
    }
}

/// `cargo metadata` of the manifest in `dir`.
fn metadata(dir: &Path, arguments: &[&str]) -> Result<Value> {
    let text = output(
        Command::new("cargo")
            .current_dir(dir)
            .args(["metadata", "--format-version=1"])
            .args(arguments),
    )?;
    serde_json::from_str(&text).context("cargo metadata is not JSON")
}

/// The packages in the output of `cargo metadata`.
fn packages(metadata: &Value, root: &Path) -> Result<Vec<Package>> {
    let text = |value: &Value| value.as_str().map(str::to_string);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut packages = Vec::new();
    for package in list(&metadata["packages"]) {
        let name = text(&package["name"]).context("a package without a name")?;
        let manifest = text(&package["manifest_path"]).context("a package without a manifest")?;
        let dir = Path::new(&manifest)
            .parent()
            .and_then(|dir| dir.strip_prefix(root).ok())
            .with_context(|| format!("{name} lies outside the repository"))?;
        packages.push(Package {
            dir: dir.to_string_lossy().replace('\\', "/"),
            version: text(&package["version"]).unwrap_or_default(),
            edition: text(&package["edition"]).unwrap_or_default(),
            rust_version: text(&package["rust_version"]),
            features: package["features"]
                .as_object()
                .map(|features| features.keys().cloned().collect())
                .unwrap_or_default(),
            dependencies: list(&package["dependencies"])
                .iter()
                .map(|dependency| Dependency {
                    name: text(&dependency["name"]).unwrap_or_default(),
                    kind: text(&dependency["kind"]).unwrap_or_else(|| "normal".to_string()),
                    path: text(&dependency["path"]).map(PathBuf::from),
                })
                .collect(),
            targets: list(&package["targets"])
                .iter()
                .map(|target| Target {
                    name: text(&target["name"]).unwrap_or_default(),
                    kind: text(&target["kind"][0]).unwrap_or_default(),
                    source: text(&target["src_path"])
                        .map(PathBuf::from)
                        .unwrap_or_default(),
                })
                .collect(),
            name,
        });
    }
    Ok(packages)
}

/// Declared Rust version by `name version` of every registry package in the lock of `dir`.
pub(crate) fn declared_rust_versions(dir: &Path) -> Result<BTreeMap<String, Option<String>>> {
    let metadata = metadata(dir, &["--locked", "--all-features"])?;
    Ok(metadata["packages"]
        .as_array()
        .context("cargo metadata without packages")?
        .iter()
        .filter(|package| !package["source"].is_null())
        .map(|package| {
            let field = |name: &str| package[name].as_str().unwrap_or_default();
            (
                format!("{} {}", field("name"), field("version")),
                package["rust_version"].as_str().map(str::to_string),
            )
        })
        .collect())
}

/// The installed toolchains, as rustup names them. Empty where rustup is missing.
pub(crate) fn toolchains() -> Vec<String> {
    output(Command::new("rustup").args(["toolchain", "list"]))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_string)
        .collect()
}

/// The nightly to use, or what to do about its absence.
pub(crate) fn nightly() -> Result<String> {
    let installed = toolchains();
    installed
        .iter()
        .find(|name| name.starts_with(NIGHTLY))
        .or_else(|| installed.iter().find(|name| name.starts_with("nightly-")))
        .cloned()
        .with_context(|| {
            format!(
                "no nightly toolchain, which rustdoc's JSON needs: \
                 rustup toolchain install {NIGHTLY} --profile minimal"
            )
        })
}

/// Runs a command to its end; its standard output, or an error that ends with what it said.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}").replace('"', "");
    let done = command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("cannot run {line}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let said: Vec<&str> = said.lines().collect();
        let tail = said[said.len().saturating_sub(40)..].join("\n");
        bail!("{line} ended with {}\n{tail}", done.status);
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_becomes_packages_relative_to_the_root() {
        let metadata = json!({"packages": [{
            "name": "ron-kernel", "manifest_path": "/r/ron-kernel/Cargo.toml", "edition": "2021",
            "rust_version": "1.80", "features": {"serve": []},
            "dependencies": [
                {"name": "ron-bus", "kind": null, "path": "/r/ron-bus"},
                {"name": "proptest", "kind": "dev"},
            ],
            "targets": [{"name": "ron_kernel", "kind": ["lib"], "src_path": "/r/ron-kernel/src/lib.rs"}],
        }]});
        let packages = packages(&metadata, Path::new("/r")).unwrap();
        assert_eq!(packages[0].dir, "ron-kernel");
        assert_eq!(packages[0].rust_version.as_deref(), Some("1.80"));
        assert_eq!(packages[0].features, ["serve"]);
        assert_eq!(packages[0].dependencies[0].kind, "normal");
        assert_eq!(packages[0].dependencies[1].kind, "dev");
        assert_eq!(packages[0].targets[0].kind, "lib");
    }

    #[test]
    fn a_package_outside_the_repository_is_an_error() {
        let metadata =
            json!({"packages": [{"name": "stray", "manifest_path": "/other/Cargo.toml"}]});
        let error = packages(&metadata, Path::new("/r")).unwrap_err();
        assert!(error.to_string().contains("stray"), "{error}");
    }

    #[test]
    fn a_command_that_fails_says_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }
}
