//! The archives that users get: their manifests, their files, and that they build outside this workspace.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::workspace::{output, Workspace};
use crate::Report;

/// A program that uses ron-kernel as a stranger would.
const DOWNSTREAM: &str = include_str!("../downstream/main.rs");
const FILES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// What is wrong with an archive, by its manifest and its files.
fn faults(name: &str, manifest: &Table, files: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |text: String| faults.push(format!("{name}: {text}"));
    let package = manifest.get("package").and_then(Value::as_table);
    let field = |key: &str| {
        package
            .and_then(|package| package.get(key))
            .and_then(Value::as_str)
    };
    if let Some(resolver) = field("resolver").filter(|resolver| *resolver != "2") {
        fault(format!(
            "the archive says resolver = \"{resolver}\", which cargo 1.80 refuses; the workspace must use \"2\""
        ));
    }
    for key in ["description", "license", "rust-version"] {
        if field(key).is_none() {
            fault(format!("the archive's manifest has no {key}"));
        }
    }
    if field("readme").is_none() {
        fault("the archive's manifest names no readme".to_string());
    }
    for file in FILES {
        if !files.contains(file) {
            fault(format!("the archive has no {file}"));
        }
    }
    if let Some(dependencies) = manifest.get("dependencies").and_then(Value::as_table) {
        for (dependency, spec) in dependencies {
            if spec.get("path").is_some() || spec.get("version").is_none() && !spec.is_str() {
                fault(format!(
                    "{dependency} has no version that a registry could serve"
                ));
            }
        }
    }
    faults
}

/// Every file under `dir`, relative to it.
fn listing(dir: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(inner) = path.strip_prefix(dir) {
                found.insert(inner.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    Ok(found)
}

/// A workspace of the unpacked archives and one program that depends on them by version alone.
fn downstream(archives: &[(String, String)]) -> (String, String) {
    let mut root = String::from("[workspace]\nresolver = \"2\"\nmembers = [\"downstream\"");
    let mut patches = String::new();
    let mut member = String::from(
        "[package]\nname = \"downstream\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[dependencies]\n",
    );
    for (name, version) in archives {
        root.push_str(&format!(", \"{name}-{version}\""));
        patches.push_str(&format!("{name} = {{ path = \"{name}-{version}\" }}\n"));
        member.push_str(&format!("{name} = \"{version}\"\n"));
    }
    root.push_str(&format!("]\n\n[patch.crates-io]\n{patches}"));
    (root, member)
}

pub(crate) fn run(workspace: &Workspace, quick: bool) -> Result<Report> {
    let mut report = Report::default();
    let scratch = workspace.scratch("package");
    let unpacked = scratch.join("unpacked");
    if unpacked.exists() {
        std::fs::remove_dir_all(&unpacked)?;
    }
    std::fs::create_dir_all(unpacked.join("downstream/src"))?;

    // All at once: cargo then resolves the ones that are not on a registry yet from each other's archives.
    let mut package = Command::new("cargo");
    package
        .current_dir(&workspace.root)
        .args([
            "package",
            "--quiet",
            "--no-verify",
            "--allow-dirty",
            "--target-dir",
        ])
        .arg(&scratch);
    for library in workspace.libraries() {
        package.args(["--package", &library.name]);
    }
    output(&mut package)?;

    let archives: Vec<(String, String)> = workspace
        .libraries()
        .into_iter()
        .map(|library| (library.name.clone(), library.version.clone()))
        .collect();
    for (name, version) in &archives {
        let archive = scratch.join(format!("package/{name}-{version}.crate"));
        output(
            // Archives carry one time for all files of all versions; by it cargo would take changed ones for built.
            Command::new("tar")
                .args(["--touch", "-xzf"])
                .arg(&archive)
                .arg("-C")
                .arg(&unpacked),
        )?;
        let dir = unpacked.join(format!("{name}-{version}"));
        let manifest: Table = std::fs::read_to_string(dir.join("Cargo.toml"))?
            .parse()
            .with_context(|| format!("the manifest in {}", archive.display()))?;
        let files = listing(&dir)?;
        report.faults.extend(faults(name, &manifest, &files));
        report.facts.push(format!(
            "{name}-{version}.crate: {} files, {} KiB",
            files.len(),
            std::fs::metadata(&archive)?.len() / 1024
        ));
    }
    if quick {
        return Ok(report);
    }

    let (root, member) = downstream(&archives);
    std::fs::write(unpacked.join("Cargo.toml"), root)?;
    std::fs::write(unpacked.join("downstream/Cargo.toml"), member)?;
    std::fs::write(unpacked.join("downstream/src/main.rs"), DOWNSTREAM)?;
    // The versions this repository is tested with; cargo drops what the archives do not need.
    std::fs::copy(
        workspace.root.join("Cargo.lock"),
        unpacked.join("Cargo.lock"),
    )?;
    let ran = output(
        Command::new("cargo")
            .current_dir(&unpacked)
            .args(["build", "--quiet", "--workspace", "--target-dir"])
            .arg(scratch.join("build")),
    )
    .and_then(|_| output(&mut Command::new(scratch.join("build/debug/downstream"))));
    match ran {
        Ok(_) => report
            .facts
            .push("built from the archives, and the downstream program ran".to_string()),
        Err(error) => report.faults.push(format!("{error:#}")),
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str =
        "[package]\nname = \"x\"\ndescription = \"d\"\nlicense = \"MIT\"\nreadme = \"README.md\"\n\
                            rust-version = \"1.80\"\n[dependencies.y]\nversion = \"1\"\n";

    fn judged(manifest: &str, files: &[&str]) -> Vec<String> {
        let files = files.iter().map(|file| (*file).to_string()).collect();
        faults("x", &manifest.parse().unwrap(), &files)
    }

    #[test]
    fn a_whole_archive_passes() {
        assert_eq!(judged(MANIFEST, &FILES), [""; 0]);
        let two = MANIFEST.replace("rust-version", "resolver = \"2\"\nrust-version");
        assert_eq!(judged(&two, &FILES), [""; 0]);
    }

    #[test]
    fn each_lack_is_one_fault() {
        let with = |from: &str, to: &str| MANIFEST.replace(from, to);
        let cases = [
            (
                with("rust-version", "resolver = \"3\"\nrust-version"),
                &FILES[..],
                "resolver = \"3\"",
            ),
            (
                with("rust-version = \"1.80\"\n", ""),
                &FILES[..],
                "no rust-version",
            ),
            (
                with("readme = \"README.md\"", "readme = false"),
                &FILES[..],
                "no readme",
            ),
            (
                with("version = \"1\"\n", "path = \"../y\"\n"),
                &FILES[..],
                "y has no version",
            ),
            (MANIFEST.to_string(), &FILES[..2], "no README.md"),
        ];
        for (manifest, files, fault) in cases {
            let found = judged(&manifest, files);
            assert_eq!(found.len(), 1, "{fault}: {found:?}");
            assert!(found[0].contains(fault), "{found:?}");
        }
    }

    #[test]
    fn the_downstream_workspace_names_versions_and_patches_paths() {
        let (root, member) = downstream(&[("ron-bus".into(), "0.1.0".into())]);
        let root: Table = root.parse().unwrap();
        let member: Table = member.parse().unwrap();
        assert_eq!(
            root["patch"]["crates-io"]["ron-bus"]["path"].as_str(),
            Some("ron-bus-0.1.0")
        );
        assert_eq!(root["workspace"]["members"].as_array().unwrap().len(), 2);
        assert_eq!(member["dependencies"]["ron-bus"].as_str(), Some("0.1.0"));
    }
}
