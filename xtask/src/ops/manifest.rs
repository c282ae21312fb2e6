//! The Kubernetes manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::image::Image;
use super::unit::Unit;
use super::{demand, span, yaml, Kernel, Settings, FILE, INSTALLED, PROGRAM};

/// A Kubernetes manifest, its objects by kind.
pub(super) struct Manifest(BTreeMap<String, Value>);

impl Manifest {
    pub(super) fn parse(text: &str) -> Result<Manifest, String> {
        let objects = yaml::documents(text)?.into_iter();
        let objects = objects.map(|object| (word(&object["kind"]).to_string(), object));
        Ok(Manifest(objects.collect()))
    }

    fn kind(&self, kind: &str) -> &Value {
        self.0.get(kind).unwrap_or(&Value::Null)
    }

    pub(super) fn pod(&self) -> &Value {
        &self.kind("Deployment")["spec"]["template"]["spec"]
    }

    fn container(&self) -> &Value {
        &self.pod()["containers"][0]
    }

    pub(super) fn config(&self) -> &str {
        word(&self.kind("ConfigMap")["data"][FILE])
    }

    /// Path and port of a probe.
    pub(super) fn probe(&self, name: &str) -> (&str, &str) {
        let get = &self.container()[name]["httpGet"];
        (word(&get["path"]), word(&get["port"]))
    }

    pub(super) fn pre_stop(&self) -> Vec<&str> {
        let command = &self.container()["lifecycle"]["preStop"]["exec"]["command"];
        command.as_array().into_iter().flatten().map(word).collect()
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn seconds(value: &Value) -> Duration {
    Duration::from_secs(value.as_u64().unwrap_or_default())
}

/// The probes with the route each has to ask.
pub(super) const PROBES: [(&str, &str); 3] = [
    ("startupProbe", "/livez"),
    // Not /healthz, which is 200 while there is a process; not /readyz, which a restart does not mend.
    ("livenessProbe", "/livez"),
    ("readinessProbe", "/readyz"),
];

pub(super) fn judge(
    manifest: &Manifest,
    settings: &Settings,
    kernel: &Kernel,
    image: &Image,
    unit: &Unit,
) -> Vec<String> {
    let mut faults = Vec::new();
    let deployment = manifest.kind("Deployment");
    let (pod, container) = (manifest.pod(), manifest.container());

    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let selectors = [
        ("Deployment", "/spec/selector/matchLabels"),
        ("Service", "/spec/selector"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
    ];
    for (kind, path) in selectors {
        let selector = manifest.kind(kind).pointer(path);
        demand(
            &mut faults,
            labels.is_object() && selector == Some(labels),
            || format!("{kind} does not select the pods' labels"),
        );
    }

    let ports = container["ports"].as_array().cloned().unwrap_or_default();
    let port = ports.iter().find(|port| port["name"] == "admin");
    demand(
        &mut faults,
        port.is_some_and(|port| port["containerPort"] == settings.addr.port())
            && settings.addr.port() == kernel.port,
        || "port `admin` is not that of the ConfigMap and the program".to_string(),
    );
    demand(&mut faults, settings.addr.ip().is_unspecified(), || {
        format!("the ConfigMap listens on {}", settings.addr)
    });
    let service = &manifest.kind("Service")["spec"]["ports"][0];
    demand(
        &mut faults,
        service["targetPort"] == "admin" && service["port"] == kernel.port,
        || "the Service does not lead to port `admin`".to_string(),
    );
    for (name, path) in PROBES {
        let found = manifest.probe(name);
        demand(&mut faults, found == (path, "admin"), || {
            format!("{name} asks {found:?}, expected {path} of port `admin`")
        });
    }

    let probe = &container["readinessProbe"];
    let misses = probe["failureThreshold"].as_u64().unwrap_or(3) as u32;
    let seen = seconds(&probe["periodSeconds"]) * misses + seconds(&probe["timeoutSeconds"]);
    let linger = settings.linger;
    demand(&mut faults, !seen.is_zero() && linger > seen, || {
        format!("drain.linger {linger:?} ends before the readiness probe has seen it ({seen:?})")
    });
    let hook = manifest.pre_stop();
    let script = hook.last().copied().unwrap_or_default();
    let bound = script.strip_prefix("timeout ");
    let bound = bound.and_then(|rest| span(rest.split(' ').next()?));
    demand(&mut faults, !script.contains("sleep"), || {
        "preStop sleeps; drain.linger does that".to_string()
    });
    match bound {
        None => faults.push("preStop has no `timeout` of its own".to_string()),
        Some(bound) => {
            let grace = seconds(&pod["terminationGracePeriodSeconds"]);
            let ends = bound + settings.ends(kernel);
            demand(&mut faults, grace > ends, || {
                format!(
                    "terminationGracePeriodSeconds {grace:?} is not above the {ends:?} of a stop"
                )
            });
        }
    }
    let (start, progress) = (
        unit.span("TimeoutStartSec"),
        seconds(&deployment["spec"]["progressDeadlineSeconds"]),
    );
    demand(&mut faults, start == progress, || {
        format!("progressDeadlineSeconds {progress:?} is not the unit's TimeoutStartSec {start:?}")
    });

    let user = image.last("USER").split(':').next().unwrap_or_default();
    let says = [
        (pod, "/securityContext/runAsNonRoot", Value::Bool(true)),
        (
            pod,
            "/securityContext/runAsUser",
            Value::from(user.parse::<u32>().unwrap_or_default()),
        ),
        (
            pod,
            "/securityContext/seccompProfile/type",
            Value::from("RuntimeDefault"),
        ),
        (pod, "/automountServiceAccountToken", Value::Bool(false)),
        (pod, "/enableServiceLinks", Value::Bool(false)),
        (
            container,
            "/securityContext/readOnlyRootFilesystem",
            Value::Bool(true),
        ),
        (
            container,
            "/securityContext/allowPrivilegeEscalation",
            Value::Bool(false),
        ),
        (
            container,
            "/securityContext/capabilities/drop/0",
            Value::from("ALL"),
        ),
        (
            container,
            "/image",
            Value::from(format!("{PROGRAM}:{}", kernel.version)),
        ),
    ];
    for (object, path, expected) in says {
        let found = object.pointer(path).unwrap_or(&Value::Null);
        demand(&mut faults, *found == expected, || {
            format!("{path} is {found}, expected {expected}")
        });
    }
    for path in [
        "/resources/requests/cpu",
        "/resources/requests/memory",
        "/resources/limits/memory",
    ] {
        demand(&mut faults, container.pointer(path).is_some(), || {
            format!("{path} is missing")
        });
    }
    faults.extend(judge_volumes(manifest, image));
    faults
}

/// Where the ConfigMap and the control socket come to lie.
fn judge_volumes(manifest: &Manifest, image: &Image) -> Vec<String> {
    let mut faults = Vec::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let volumes = list(&manifest.pod()["volumes"]);
    let mounts = list(&manifest.container()["volumeMounts"]);
    for mount in &mounts {
        let known = volumes.iter().any(|volume| volume["name"] == mount["name"]);
        demand(&mut faults, known, || {
            format!("{} is mounted and no volume", mount["name"])
        });
        demand(&mut faults, mount["subPath"].is_null(), || {
            format!("{} is mounted by subPath and never renewed", mount["name"])
        });
    }
    let mounted = |is: &dyn Fn(&Value) -> bool| {
        let volume = volumes.iter().find(|volume| is(volume))?;
        let mount = mounts
            .iter()
            .find(|mount| mount["name"] == volume["name"])?;
        Some(PathBuf::from(word(&mount["mountPath"])))
    };
    let name = &manifest.kind("ConfigMap")["metadata"]["name"];
    let config = mounted(&|volume| volume["configMap"]["name"] == *name);
    demand(
        &mut faults,
        config.is_some_and(|dir| dir.join(FILE) == Path::new(INSTALLED)),
        || format!("the ConfigMap is not mounted as {INSTALLED}"),
    );
    let sockets = Path::new(image.env().get("RON_RUN_DIR").copied().unwrap_or_default());
    let run = mounted(&|volume| {
        let is_empty = volume["emptyDir"].is_object();
        is_empty
            && mounts.iter().any(|mount| {
                let at = Path::new(word(&mount["mountPath"]));
                mount["name"] == volume["name"] && sockets.parent() == Some(at)
            })
    });
    demand(&mut faults, run.is_some(), || {
        let sockets = sockets.display();
        format!("RON_RUN_DIR `{sockets}` of the image is not directly below an emptyDir")
    });
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::{
        each_change_is_a_fault, kernel, settings, SHIPPED_IMAGE, SHIPPED_MANIFEST, SHIPPED_UNIT,
    };

    fn of_manifest(text: &str) -> Vec<String> {
        let (image, unit) = (Image::parse(SHIPPED_IMAGE), Unit::parse(SHIPPED_UNIT));
        match Manifest::parse(text) {
            Ok(manifest) => {
                let settings = settings(5, 5, "0.0.0.0:9909");
                judge(&manifest, &settings, &kernel(), &image, &unit)
            }
            Err(fault) => vec![fault],
        }
    }

    #[test]
    fn a_manifest_that_was_changed_for_the_worse_is_reported() {
        each_change_is_a_fault(
            SHIPPED_MANIFEST,
            of_manifest,
            &[
                ("path: /readyz", "path: /healthz", "readinessProbe asks"),
                ("path: /livez", "path: /healthz", "livenessProbe asks"),
                (
                    "          startupProbe:",
                    "          startupProb:",
                    "startupProbe asks",
                ),
                ("containerPort: 9909", "containerPort: 9990", "port `admin`"),
                ("port: 9909", "port: 9990", "the Service does not lead"),
                ("PeriodSeconds: 20", "PeriodSeconds: 14", "above the 14s"),
                (
                    "periodSeconds: 2\n",
                    "periodSeconds: 5\n",
                    "before the readiness probe",
                ),
                ("timeout 3 ron", "timeout 12 ron", "above the 23s"),
                ("timeout 3 ron", "ron", "no `timeout`"),
                ("timeout 3 ron", "sleep 5; timeout 3 ron", "preStop sleeps"),
                ("Seconds: 300", "Seconds: 600", "TimeoutStartSec 300s"),
                (
                    "runAsNonRoot: true",
                    "runAsNonRoot: false",
                    "runAsNonRoot is false",
                ),
                ("runAsUser: 10001", "runAsUser: 1000", "runAsUser is 1000"),
                (
                    "readOnlyRootFilesystem: true",
                    "readOnly: true",
                    "readOnlyRoot",
                ),
                ("RuntimeDefault", "Unconfined", "seccompProfile"),
                (
                    "enableServiceLinks: false",
                    "enableServiceLinks: true",
                    "Links",
                ),
                ("drop: [\"ALL\"]", "drop: []", "capabilities"),
                ("demo:0.1.0", "demo:0.2.0", "/image is"),
                ("limits:", "limit:", "/resources/limits/memory"),
                ("mountPath: /run/ron", "mountPath: /run/x", "RON_RUN_DIR"),
                (
                    "mountPath: /etc/ron",
                    "mountPath: /etc/x",
                    "is not mounted as",
                ),
                (
                    "mountPath: /etc/ron",
                    "subPath: x\n              mountPath: /etc/ron",
                    "subPath",
                ),
                (
                    "- name: tmp\n              mount",
                    "- name: var\n              mount",
                    "no volume",
                ),
                (
                    "kind: PodDisruptionBudget",
                    "kind: PDB",
                    "PodDisruptionBudget does not",
                ),
                (
                    "        app.kubernetes.io/name: ron-kernel\n    spec",
                    "        a: b\n    spec",
                    "Deployment does not",
                ),
                (
                    "replicas: 2",
                    "replicas: 2\n  replicas: 3",
                    "is there twice",
                ),
            ],
        );
        let manifest = Manifest::parse(SHIPPED_MANIFEST).unwrap();
        let (image, unit) = (Image::parse(SHIPPED_IMAGE), Unit::parse(SHIPPED_UNIT));
        let closed = settings(3, 5, "127.0.0.1:9909");
        let faults = judge(&manifest, &closed, &kernel(), &image, &unit);
        assert!(faults.iter().any(|fault| fault.contains("ends before")));
        assert!(faults
            .iter()
            .any(|fault| fault.contains("listens on 127.0.0.1")));
    }
}
