//! The image.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{demand, Kernel, Settings, INSTALLED, PROGRAM};

/// What `docker stop` grants unless told otherwise.
const DOCKER_STOP: Duration = Duration::from_secs(10);

/// A Dockerfile: the words of each instruction, and the stage it is in.
pub(super) struct Image(Vec<(usize, String, String)>);

impl Image {
    pub(super) fn parse(text: &str) -> Image {
        let mut instructions = Vec::new();
        let mut stage = 0;
        let mut whole = String::new();
        for line in text.lines() {
            if line.trim_start().starts_with('#') || whole.is_empty() && line.trim().is_empty() {
                continue;
            }
            if let Some(begun) = line.trim().strip_suffix('\\') {
                whole.push_str(begun.trim());
                whole.push(' ');
                continue;
            }
            whole.push_str(line.trim());
            let (name, rest) = whole.split_once(' ').unwrap_or((&whole, ""));
            if name == "FROM" {
                stage += 1;
            }
            instructions.push((stage, name.to_string(), rest.trim().to_string()));
            whole.clear();
        }
        Image(instructions)
    }

    fn all(&self, name: &'static str) -> impl Iterator<Item = (usize, &str)> {
        let found = self.0.iter().filter(move |(_, found, _)| found == name);
        found.map(|(stage, _, rest)| (*stage, rest.as_str()))
    }

    /// The last instruction of that name in the last stage.
    pub(super) fn last(&self, name: &'static str) -> &str {
        let last = self.all("FROM").count();
        let found = self.all(name).filter(|(stage, _)| *stage == last);
        found.last().map_or("", |(_, rest)| rest)
    }

    /// The words of an instruction in exec form; none in shell form.
    pub(super) fn exec(&self, name: &'static str) -> Vec<String> {
        let words = self.last(name);
        let list = words.find('[').map_or("", |at| &words[at..]);
        serde_json::from_str(list).unwrap_or_default()
    }

    pub(super) fn env(&self) -> BTreeMap<&str, &str> {
        let words = self
            .all("ENV")
            .flat_map(|(_, words)| words.split_whitespace());
        words.filter_map(|word| word.split_once('=')).collect()
    }
}

/// Whether an image's name says on which host it lies.
fn names_host(image: &str) -> bool {
    let host = image.split_once('/').map_or("", |(host, _)| host);
    host.contains(['.', ':']) || host == "localhost"
}

pub(super) fn judge(
    text: &str,
    settings: &Settings,
    kernel: &Kernel,
    exists: impl Fn(&str) -> bool,
) -> Vec<String> {
    let image = Image::parse(text);
    let mut faults = Vec::new();
    let mut stages = Vec::new();
    let mut systems: Vec<&str> = Vec::new();
    for (_, from) in image.all("FROM") {
        let mut words = from.split_whitespace();
        let base = words.next().unwrap_or_default();
        demand(&mut faults, !names_host(base), || {
            format!("FROM {base} names a host")
        });
        let tag = base.split_once(':').map_or("", |(_, tag)| tag);
        demand(&mut faults, !["", "latest"].contains(&tag), || {
            format!("FROM {base} has no tag that stays")
        });
        systems.extend(
            ["bookworm", "trixie"]
                .iter()
                .filter(|is| tag.contains(**is)),
        );
        stages.push(words.last().unwrap_or_default());
    }
    demand(&mut faults, stages.len() == 2, || {
        format!("{} stages instead of two", stages.len())
    });
    demand(
        &mut faults,
        systems.len() == stages.len() && systems.windows(2).all(|pair| pair[0] == pair[1]),
        || format!("the stages are of different Debians: {systems:?}"),
    );
    for (stage, words) in image.all("COPY") {
        let (options, paths): (Vec<&str>, Vec<&str>) = words
            .split_whitespace()
            .partition(|word| word.starts_with("--"));
        let from = options
            .iter()
            .find_map(|option| option.strip_prefix("--from="));
        let sources = &paths[..paths.len().saturating_sub(1)];
        demand(&mut faults, !sources.is_empty(), || {
            format!("COPY {words}: nowhere to")
        });
        match from {
            Some(from) => demand(
                &mut faults,
                stages[..stage - 1].contains(&from) && !from.is_empty(),
                || format!("COPY {words}: no stage `{from}` before"),
            ),
            None => faults.extend(
                sources
                    .iter()
                    .filter(|source| !exists(source))
                    .map(|source| format!("COPY {words}: there is no `{source}`")),
            ),
        }
    }
    let builds = image.all("RUN").any(|(_, words)| {
        let build = format!("cargo build --locked --release --package {PROGRAM}");
        words.contains(&build)
    });
    demand(&mut faults, builds, || {
        "no RUN builds the program with --locked --release".to_string()
    });
    let runs = image.last("RUN");
    demand(&mut faults, runs.contains(" tini "), || {
        "the last stage does not install tini".to_string()
    });
    let path = format!("/usr/local/bin/{PROGRAM}");
    let entry = image.exec("ENTRYPOINT");
    demand(
        &mut faults,
        entry == ["/usr/bin/tini", "--", path.as_str()],
        || format!("ENTRYPOINT is not tini before {path} in exec form: {entry:?}"),
    );
    let probe = image.exec("HEALTHCHECK");
    demand(&mut faults, probe.first() == Some(&path), || {
        format!("HEALTHCHECK is not {path} in exec form: {probe:?}")
    });
    let user = image.last("USER").split(':').next().unwrap_or_default();
    demand(
        &mut faults,
        user.parse::<u32>().is_ok_and(|user| user != 0),
        || format!("USER `{user}` is root or no number"),
    );
    demand(&mut faults, image.last("STOPSIGNAL") == "SIGTERM", || {
        "STOPSIGNAL is not SIGTERM".to_string()
    });
    let port = settings.addr.port();
    demand(
        &mut faults,
        image.last("EXPOSE") == port.to_string() && port == kernel.port,
        || format!("EXPOSE is not the port {port} of container.toml and the program"),
    );
    demand(&mut faults, settings.addr.ip().is_unspecified(), || {
        format!("container.toml listens on {}", settings.addr)
    });
    let ends = settings.ends(kernel);
    demand(&mut faults, DOCKER_STOP > ends, || {
        format!("container.toml: a stop takes {ends:?}, `docker stop` kills after {DOCKER_STOP:?}")
    });
    let installs = format!("docs/ops/container.toml {INSTALLED}");
    demand(&mut faults, image.last("COPY") == installs, || {
        format!("the last COPY is not `{installs}`")
    });
    for name in image
        .env()
        .into_keys()
        .filter(|name| *name != "RON_RUN_DIR")
    {
        faults.push(format!("ENV {name} would win over a mounted configuration"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::{each_change_is_a_fault, kernel, settings, SHIPPED_IMAGE};

    fn of_image(text: &str) -> Vec<String> {
        let exists = |path: &str| [".", "docs/ops/container.toml"].contains(&path);
        judge(text, &settings(0, 5, "0.0.0.0:9909"), &kernel(), exists)
    }

    #[test]
    fn an_image_that_was_changed_for_the_worse_is_reported() {
        each_change_is_a_fault(
            SHIPPED_IMAGE,
            of_image,
            &[
                (
                    "debian:bookworm-slim",
                    "debian:trixie-slim",
                    "different Debians",
                ),
                ("rust:1-bookworm", "h.example/rust:1-bookworm", "a host"),
                ("debian:bookworm-slim", "debian", "no tag"),
                ("FROM rust:1-bookworm AS build\n", "", "1 stages"),
                ("--from=build", "--from=builder", "no stage `builder`"),
                ("COPY . .", "COPY src .", "there is no `src`"),
                ("ops/container.toml", "ops/other.toml", "no `docs/ops/other"),
                ("--locked --release", "--release", "--locked --release"),
                ("recommends tini", "recommends init", "install tini"),
                (
                    "[\"/usr/bin/tini\", \"--\", ",
                    "[",
                    "ENTRYPOINT is not tini",
                ),
                (
                    "ENTRYPOINT [\"/usr/bin/tini\",",
                    "ENTRYPOINT tini",
                    "exec form",
                ),
                (
                    "CMD [\"/usr/local/bin/ron-kernel-demo\",",
                    "CMD [\"curl\",",
                    "HEALTHCHECK",
                ),
                ("USER 10001:10001", "USER 0:0", "USER `0` is root"),
                ("USER 10001:10001", "USER ron", "USER `ron`"),
                ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "STOPSIGNAL"),
                ("EXPOSE 9909", "EXPOSE 9990", "EXPOSE"),
                (
                    "ENV RON_RUN_DIR",
                    "ENV RON_DRAIN_LINGER=1s RON_RUN_DIR",
                    "would win",
                ),
            ],
        );
        let exists = |_: &str| true;
        let slow = settings(5, 5, "127.0.0.1:9909");
        let faults = judge(SHIPPED_IMAGE, &slow, &kernel(), exists);
        assert!(faults.iter().any(|fault| fault.contains("kills after 10s")));
        assert!(faults
            .iter()
            .any(|fault| fault.contains("listens on 127.0.0.1")));
    }
}
