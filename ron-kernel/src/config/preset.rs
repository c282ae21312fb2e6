//! The preset `rustyonions`: the three services that the supervisor of RustyOnions runs, under the names that its
//! operators have always set.

use super::Config;
use ron_config::{Loaded, Schema, Settings};
use std::fmt;

#[cfg(feature = "process")]
use crate::process::{Command, Probe, Ready};
#[cfg(feature = "process")]
use crate::supervisor::{Child, Restart};

/// `preset` and `rustyonions.*`: nothing, or the services of a preset. A program that should know presets declares
/// the keys with [`Config::preset_keys`]; in every other they stay off.
#[derive(Clone, Debug, PartialEq)]
pub struct PresetConfig {
    preset: Preset,
    /// As in [`SERVICES`].
    places: [Place; 3],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Preset {
    #[default]
    None,
    RustyOnions,
}

/// What is fixed of one service.
struct Service {
    name: &'static str,
    bin: &'static str,
    bin_env: &'static str,
    sock: &'static str,
    sock_env: &'static str,
    sock_default: &'static str,
}

const SERVICES: [Service; 3] = [
    Service {
        name: "svc-index",
        bin: "rustyonions.index.bin",
        bin_env: "RON_SVC_INDEX_BIN",
        sock: "rustyonions.index.sock",
        sock_env: "RON_INDEX_SOCK",
        sock_default: "/tmp/ron/svc-index.sock",
    },
    Service {
        name: "svc-overlay",
        bin: "rustyonions.overlay.bin",
        bin_env: "RON_SVC_OVERLAY_BIN",
        sock: "rustyonions.overlay.sock",
        sock_env: "RON_OVERLAY_SOCK",
        sock_default: "/tmp/ron/svc-overlay.sock",
    },
    Service {
        name: "svc-storage",
        bin: "rustyonions.storage.bin",
        bin_env: "RON_SVC_STORAGE_BIN",
        sock: "rustyonions.storage.sock",
        sock_env: "RON_STORAGE_SOCK",
        sock_default: "/tmp/ron/svc-storage.sock",
    },
];

/// What the configuration says of one service. Texts, not paths: an empty one is for the service's crash reason, not
/// for refusing to start the others.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    bin: String,
    sock: String,
}

impl Default for PresetConfig {
    fn default() -> Self {
        PresetConfig {
            preset: Preset::None,
            places: SERVICES.map(|service| Place {
                bin: service.name.to_owned(),
                sock: service.sock_default.to_owned(),
            }),
        }
    }
}

impl Settings for PresetConfig {
    fn schema(schema: &mut Schema<Self>) {
        schema
            .choice(
                "preset",
                |c: &mut PresetConfig| &mut c.preset,
                &[("none", Preset::None), ("rustyonions", Preset::RustyOnions)],
            )
            .doc("children known by name: svc-index, svc-overlay and svc-storage, ready and well by v1.health");
        for (at, service) in SERVICES.into_iter().enumerate() {
            let name = service.name;
            schema
                .key(service.bin, move |c: &mut PresetConfig| {
                    &mut c.places[at].bin
                })
                .doc(&format!("program of {name}, a path or a name in PATH"))
                .env(service.bin_env)
                .implies("preset", "rustyonions");
            schema
                .key(service.sock, move |c: &mut PresetConfig| {
                    &mut c.places[at].sock
                })
                .doc(&format!("Unix socket of {name}, told to all three"))
                .env(service.sock_env)
                .implies("preset", "rustyonions");
        }
        let keys = SERVICES.iter().flat_map(|s| [s.bin, s.sock]);
        let keys: Vec<&str> = keys.chain(["preset"]).collect();
        schema.check(&keys, |c| {
            let places = PresetConfig::default().places;
            if c.preset == Preset::None && c.places != places {
                return Err("is set without preset = \"rustyonions\"".to_owned());
            }
            Ok(())
        });
    }
}

impl PresetConfig {
    pub(crate) fn is_on(&self) -> bool {
        self.preset != Preset::None
    }

    /// The children. Each is told all sockets, as the others inherited them from the old supervisor. They start
    /// together: RustyOnions states no order.
    #[cfg(feature = "process")]
    pub(crate) fn children(&self) -> impl Iterator<Item = Child> + '_ {
        let services = SERVICES.iter().zip(&self.places);
        services.filter(|_| self.is_on()).map(|(service, place)| {
            Child::process(service.name, self.command(place)).restart(Restart::Permanent)
        })
    }

    #[cfg(feature = "process")]
    fn command(&self, place: &Place) -> Command {
        let probe = Probe::v1_health(&place.sock);
        let command = Command::new(&place.bin)
            .ready(Ready::Probed(probe.clone()))
            .health(probe);
        let sockets = SERVICES.iter().zip(&self.places);
        sockets.fold(command, |command, (service, place)| {
            command.env(service.sock_env, &place.sock)
        })
    }
}

/// A service that a preset added, for the log of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PresetService {
    /// The name of the child.
    pub child: &'static str,
    /// The program.
    pub program: String,
    /// Where that comes from: `env RON_SVC_INDEX_BIN`, `default`.
    pub program_from: String,
    /// Its Unix socket.
    pub socket: String,
    /// Where that comes from.
    pub socket_from: String,
}

impl fmt::Display for PresetService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "preset rustyonions: {} is {:?} ({}), asked at {:?} ({})",
            self.child, self.program, self.program_from, self.socket, self.socket_from
        )
    }
}

impl Config {
    /// Declares `preset` and `rustyonions.*` in the schema of a program that runs services for others. Their
    /// environment names are of the whole machine (`RON_SVC_INDEX_BIN`, `RON_INDEX_SOCK`, ..), so only a supervisor
    /// may follow them; hosts that merely contain a kernel leave this out.
    ///
    /// ```
    /// use ron_kernel::configuration::{Loader, Schema, Settings};
    ///
    /// #[derive(Clone, Default)]
    /// struct Supervisor {
    ///     kernel: ron_kernel::Config,
    /// }
    ///
    /// impl Settings for Supervisor {
    ///     fn schema(schema: &mut Schema<Self>) {
    ///         schema.include(|s: &mut Supervisor| &mut s.kernel);
    ///         ron_kernel::Config::preset_keys(schema, |s| &mut s.kernel);
    ///     }
    /// }
    ///
    /// let loaded = Loader::<Supervisor>::new("ron-kernel")
    ///     .env([("RON_SVC_INDEX_BIN", "/opt/svc-index")])
    ///     .load()?;
    /// let services = loaded.snapshot().kernel.preset_services(&loaded);
    /// assert_eq!(services.len(), 3);
    /// assert_eq!(services[0].program_from, "env RON_SVC_INDEX_BIN");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn preset_keys<T: 'static>(schema: &mut Schema<T>, kernel: fn(&mut T) -> &mut Config) {
        schema.include(move |settings: &mut T| &mut kernel(settings).preset);
    }

    /// The services that the preset in force adds, and where their programs and sockets come from.
    pub fn preset_services<T: Settings>(&self, loaded: &Loaded<T>) -> Vec<PresetService> {
        let from = |key| {
            let explained = loaded.explain(key);
            explained.map_or_else(|_| "program".to_owned(), |it| it.origin().to_string())
        };
        let services = SERVICES.iter().zip(&self.preset.places);
        let told = services
            .filter(|_| self.preset.is_on())
            .map(|(service, place)| PresetService {
                child: service.name,
                program: place.bin.clone(),
                program_from: from(service.bin),
                socket: place.sock.clone(),
                socket_from: from(service.sock),
            });
        told.collect()
    }
}

#[cfg(all(test, feature = "process"))]
mod tests {
    use super::*;
    use crate::supervisor::{Kind, Spec};

    #[test]
    fn each_service_is_asked_at_its_socket_and_told_all_of_them() {
        let mut config = PresetConfig {
            preset: Preset::RustyOnions,
            ..PresetConfig::default()
        };
        config.places[1] = Place {
            bin: "/opt/overlay".to_owned(),
            sock: "/run/o.sock".to_owned(),
        };
        let told = [
            ("RON_INDEX_SOCK", "/tmp/ron/svc-index.sock"),
            ("RON_OVERLAY_SOCK", "/run/o.sock"),
            ("RON_STORAGE_SOCK", "/tmp/ron/svc-storage.sock"),
        ];
        let told = told.map(|(name, value)| (name.into(), Some(value.into())));
        let programs = ["svc-index", "/opt/overlay", "svc-storage"];
        for (at, (place, child)) in config.places.iter().zip(config.children()).enumerate() {
            let command = config.command(place);
            let probe = Probe::v1_health(&place.sock);
            assert_eq!(command.program, programs[at]);
            assert_eq!(command.env, told);
            assert_eq!(command.ready, Ready::Probed(probe.clone()));
            assert_eq!(command.health, Some(probe));
            let made = Spec::Child(child).split(&mut Vec::new());
            let by_hand = Child::process("a", Command::new("a")).restart(Restart::Permanent);
            let by_hand = Spec::Child(by_hand).split(&mut Vec::new());
            assert_eq!((&*made.name, made.kind), (SERVICES[at].name, Kind::Process));
            assert_eq!((made.policy, made.after), (by_hand.policy, Vec::new()));
        }
        assert_eq!(config.children().count(), 3);
        assert_eq!(PresetConfig::default().children().count(), 0);
    }
}
