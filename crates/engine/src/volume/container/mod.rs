//! A database that runs in a container, of Docker or of Podman.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | what the container is on this node |
//! | `daemon.rs` | the daemon: images, creating, removing, running a check inside |
//! | `credentials.rs` | who asks the registry |
//! | `error.rs` | what can be wrong |
//!
//! How it is started, watched and ended whatever becomes of the daemon: `guard/cage.rs` and `guard/holder.rs`.

mod credentials;
mod daemon;
mod error;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};
use xxhash_rust::xxh3::xxh3_64;

use super::place::Place;
use super::spec::{DatabaseSpec, Listen};
use super::table::{Bind, ContainerPart, ListenText, Pull, Registry};
use crate::EngineError;

pub(super) use daemon::{Containers, run_inside};
pub use error::ContainerError;

/// Where the gate is in the container: an empty folder.
const GATE: &str = "/run/trine-gate";
/// Where a volume appears when nothing says otherwise.
const DATA: &str = "/data";

/// What the container is on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The image's name.
    pub image: String,
    /// When it is fetched.
    pub pull: Pull,
    /// How the registry knows who asks; `None`: anybody may.
    pub registry: Option<Registry>,
    /// The socket that is set; `None`: Docker's or Podman's usual one.
    pub socket: Option<PathBuf>,
    /// Where the volume appears in it.
    pub data_path: PathBuf,
    /// Where the database listens in it.
    pub port: u16,
    /// `bridge`, `host`, or a network's name.
    pub network: String,
    /// More of the machine's files.
    pub mounts: Vec<Bind>,
    /// At most so much memory, in bytes.
    pub memory: Option<i64>,
    /// At most so much of the processors, in billionths of one.
    pub nano_cpus: Option<i64>,
    /// Its name at the daemon.
    pub name: String,
}

impl ContainerSpec {
    pub(super) fn resolve(
        image: &str,
        part: &ContainerPart,
        listen: &ListenText,
        place: &Place,
    ) -> Result<Self, EngineError> {
        let network = part.network.clone().unwrap_or_else(|| "bridge".to_owned());
        let port = match part.port {
            _ if network == "host" => place.port,
            Some(port) => port,
            // It is reached by its socket.
            None if *listen != ListenText::Tcp => place.port,
            None => return Err(ContainerError::NoPort.into()),
        };
        let data_path = part.data_path.clone().unwrap_or_else(|| DATA.into());
        let mounts = part.mounts.clone().unwrap_or_default();
        let within = |b: &&Bind| b.target.starts_with(&data_path) || data_path.starts_with(&b.target);
        if let Some(bad) = mounts.iter().find(within) {
            return Err(ContainerError::OverTheVolume { mount: bad.target.clone(), data_path }.into());
        }
        // The folder's path as a number: nodes of one machine must not meet.
        let number = xxh3_64(place.dir.as_os_str().as_encoded_bytes());
        Ok(Self {
            image: image.to_owned(),
            pull: part.pull.unwrap_or_default(),
            registry: part.registry.clone(),
            socket: part.socket.clone(),
            data_path,
            port,
            network,
            mounts,
            memory: part.memory,
            nano_cpus: part.nano_cpus,
            name: format!("trine-{}-{number:016x}", if place.names.1.is_empty() { "node" } else { &place.names.1 }),
        })
    }

    fn is_host(&self) -> bool {
        self.network == "host"
    }

    /// What the placeholders stand for inside: `{run}` and `{log}` are where they are outside.
    pub(super) fn inner(&self, place: &Place) -> Place {
        Place {
            data: self.data_path.clone(),
            address: if self.is_host() { place.address } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) },
            port: self.port,
            ..place.clone()
        }
    }
}

/// Ends the containers that were started on the node in `dir`, for who ends all of its processes: nothing of them is left, and
/// none of them can be started any more. Without the daemon. Blocks.
///
/// # Errors
/// The processes that are left after 10 s.
pub fn end_containers(dir: &std::path::Path) -> Result<usize, Vec<u32>> {
    let mut count = 0;
    for cage in daemon::read_record(&dir.join("run").join(daemon::RECORD)) {
        count += crate::guard::cage::Keeper::new(cage).end(std::time::Duration::from_secs(10))?;
    }
    Ok(count)
}

/// Its labels: by them a container that was left behind is known as this node's.
fn labels(place: &Place) -> [(&'static str, String); 3] {
    let (cluster, node) = place.names.clone();
    [("trine.cluster", cluster), ("trine.node", node), ("trine.dir", place.dir.display().to_string())]
}

/// The label with the path of the gate.
const GATE_LABEL: &str = "trine.gate";

impl DatabaseSpec {
    /// What the daemon is told to create.
    fn body(&self, c: &ContainerSpec, gate: &std::path::Path) -> ContainerCreateBody {
        // As mounts, not as `binds`: with those the daemon makes a source that is missing, the gate too.
        let mount = |source: String, target: String, read_only: bool| Mount {
            source: Some(source),
            target: Some(target),
            typ: Some(MountType::BIND),
            read_only: Some(read_only),
            ..Mount::default()
        };
        let same = |path: &PathBuf| mount(path.display().to_string(), path.display().to_string(), false);
        let place = &self.place;
        let mut mounts = vec![
            mount(gate.display().to_string(), GATE.to_owned(), true),
            mount(place.data.display().to_string(), c.data_path.display().to_string(), false),
            same(&place.run),
            same(&place.log),
        ];
        let own = |b: &Bind| mount(b.source.display().to_string(), b.target.display().to_string(), b.read_only);
        mounts.extend(c.mounts.iter().map(own));
        let inside = format!("{}/tcp", c.port);
        let outside = match &self.listen {
            Listen::Tcp(at) if !c.is_host() => {
                Some(PortBinding { host_ip: Some(at.ip().to_string()), host_port: Some(at.port().to_string()) })
            }
            _ => None,
        };
        let mut all: HashMap<String, String> = labels(place).map(|(k, v)| (k.to_owned(), v)).into();
        all.insert(GATE_LABEL.to_owned(), gate.display().to_string());
        let (uid, gid) = self.owner();
        ContainerCreateBody {
            image: Some(c.image.clone()),
            cmd: Some(self.program.args.clone()).filter(|a| !a.is_empty()),
            env: Some(self.env.iter().map(|(k, v)| format!("{k}={v}")).collect()),
            user: self.account.is_other().then(|| format!("{uid}:{gid}")),
            working_dir: self.own_workdir().map(|w| w.display().to_string()),
            labels: Some(all),
            exposed_ports: outside.is_some().then(|| vec![inside.clone()]),
            host_config: Some(HostConfig {
                mounts: Some(mounts),
                network_mode: Some(c.network.clone()),
                port_bindings: outside.map(|at| HashMap::from([(inside, Some(vec![at]))])),
                memory: c.memory,
                nano_cpus: c.nano_cpus,
                // Nobody but trine starts it, and it is looked at after its end.
                restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), ..Default::default() }),
                auto_remove: Some(false),
                // The holder has its output; the daemon need not keep another copy, which nobody cuts.
                log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }
}
