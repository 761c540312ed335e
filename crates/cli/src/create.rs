//! Makes a new cluster's files: its CA, and for each node certificates, secrets and configuration.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::distr::Alphanumeric;
use toml::{Table, Value};
use trine_agent::{CONFIG_FILE, Config, SECRETS_FILE, Secrets};
use trine_transport::Authority;

use crate::args::{Init, NodeSpec};
use crate::failure::{Done, Failure, chain};
use crate::print;
use crate::settings;

/// A cluster to be made.
pub(crate) struct Plan {
    pub(crate) cluster: String,
    pub(crate) cluster_id: String,
    nodes: Vec<Planned>,
}

struct Planned {
    spec: NodeSpec,
    text: String,
    config: Config,
}

/// What a plan is made of.
pub(crate) struct Wanted<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) engine: &'a str,
    pub(crate) nodes: &'a [NodeSpec],
    pub(crate) overrides: &'a Table,
    /// The file of the overrides, for messages.
    pub(crate) file: Option<&'a Path>,
}

impl Plan {
    /// Writes and checks every node's configuration, in memory. `dir_of` says where a node's folder will be.
    pub(crate) fn new(wanted: &Wanted<'_>, dir_of: impl Fn(&NodeSpec) -> PathBuf) -> Done<Self> {
        let cluster_id = uuid::Uuid::new_v4().to_string();
        let members: Vec<Value> = wanted.nodes.iter().map(member).collect();
        let mut nodes = Vec::new();
        for spec in wanted.nodes {
            let mut table = Table::new();
            table.insert("cluster".into(), wanted.cluster.into());
            table.insert("cluster_id".into(), cluster_id.clone().into());
            table.insert("node".into(), spec.name.as_str().into());
            let dir = dir_of(spec);
            let path = dir
                .to_str()
                .ok_or_else(|| Failure::wrong_use(format!("{} is not UTF-8: use another path", dir.display())))?;
            table.insert("dir".into(), path.into());
            table.insert("members".into(), Value::Array(members.clone()));
            table.insert("engine".into(), Value::Table(Table::from_iter([("kind".to_owned(), wanted.engine.into())])));
            settings::merge(&mut table, wanted.overrides.clone());
            let text = settings::write(&table)?;
            let config = settings::check(&text, wanted.file)?;
            nodes.push(Planned { spec: spec.clone(), text, config });
        }
        Ok(Self { cluster: wanted.cluster.to_owned(), cluster_id, nodes })
    }

    /// Every node's configuration.
    pub(crate) fn configs(&self) -> impl Iterator<Item = &Config> {
        self.nodes.iter().map(|n| &n.config)
    }

    /// The node that begins the cluster: the first that may lead.
    fn seed(&self) -> Option<&Planned> {
        self.nodes.iter().find(|n| n.spec.voter && n.config.me.priority > 0)
    }

    /// Writes everything into `out`, which is empty or not there. Nothing that exists is overwritten.
    pub(crate) fn write(&self, out: &Path) -> Done {
        folder(out, 0o755)?;
        let authority = Authority::create(&self.cluster_id).map_err(|e| Failure::because("can't make the CA", &e))?;
        let (ca_cert, ca_key) = authority.to_pem();
        folder(&out.join("ca"), 0o700)?;
        file(&out.join("ca/ca.pem"), &ca_cert, 0o644)?;
        file(&out.join("ca/ca.key"), &ca_key, 0o600)?;
        let secrets = Secrets { api_token: random(), superuser_password: random(), app_password: random() };
        for node in &self.nodes {
            let name = &node.spec.name;
            let dir = out.join(name.as_str());
            folder(&dir, 0o755)?;
            folder(&dir.join("tls"), 0o755)?;
            let (cert, key) = authority
                .issue(name, &[node.spec.address])
                .map_err(|e| Failure::because(format!("can't make the certificate of {name}"), &e))?;
            file(&dir.join("tls/ca.pem"), &ca_cert, 0o644)?;
            file(&dir.join("tls/node.pem"), &cert, 0o644)?;
            file(&dir.join("tls/node.key"), &key, 0o600)?;
            let path = dir.join(SECRETS_FILE);
            secrets.create(&path).map_err(|e| cant("write", &path, &e))?;
            file(&dir.join(CONFIG_FILE), &node.text, 0o644)?;
        }
        if let Some(seed) = self.seed() {
            let text = format!("{}\n", self.cluster_id);
            file(&out.join(seed.spec.name.as_str()).join("seed"), &text, 0o644)?;
        }
        Ok(())
    }
}

fn member(spec: &NodeSpec) -> Value {
    let mut m = Table::new();
    m.insert("name".into(), spec.name.as_str().into());
    m.insert("zone".into(), spec.zone.clone().into());
    m.insert("address".into(), spec.address.to_string().into());
    if let Some(priority) = spec.priority {
        m.insert("priority".into(), i64::from(priority).into());
    }
    if !spec.voter {
        m.insert("voter".into(), false.into());
    }
    Value::Table(m)
}

/// 32 letters and digits: 190 bits.
fn random() -> String {
    rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect()
}

pub(crate) fn cant(what: &str, path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::failed(format!("can't {what} {}: {}", path.display(), chain(error)));
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.hint("use a folder that this user may write to"),
        io::ErrorKind::StorageFull => failure.hint("the disk is full: free some space, or use a folder on another one"),
        _ => failure,
    }
}

/// Makes a folder (and those above it) with exactly this mode, whatever the umask says. One that exists is left alone.
pub(crate) fn folder(path: &Path, mode: u32) -> Done {
    let made = || -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    };
    made().map_err(|e| cant("create", path, &e))
}

fn file(path: &Path, text: &str, mode: u32) -> Done {
    let made = || -> io::Result<()> {
        let mut f = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        f.set_permissions(Permissions::from_mode(mode))?;
        f.write_all(text.as_bytes())?;
        f.sync_all()
    };
    made().map_err(|e| cant("write", path, &e))
}

/// Entries of a folder other than `lost+found`; none when it is not there.
pub(crate) fn entries(path: &Path) -> Done<Vec<String>> {
    let read = match fs::read_dir(path) {
        Ok(read) => read,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(cant("read", path, &e)),
    };
    let mut names = Vec::new();
    for entry in read {
        let name = entry.map_err(|e| cant("read", path, &e))?.file_name().to_string_lossy().into_owned();
        if name != "lost+found" {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// `trine init`.
pub(crate) fn init(args: &Init) -> Done {
    let out = std::path::absolute(&args.out).map_err(|e| cant("use", &args.out, &e))?;
    let overrides = settings::overrides(args.config.as_deref(), &args.set)?;
    let wanted = Wanted {
        cluster: &args.cluster,
        engine: &args.engine,
        nodes: &args.nodes,
        overrides: &overrides,
        file: args.config.as_deref(),
    };
    let plan = Plan::new(&wanted, |spec| args.node_dir.clone().unwrap_or_else(|| out.join(spec.name.as_str())))?;
    let names: Vec<&str> = args.nodes.iter().map(|n| n.name.as_str()).collect();
    for entry in entries(&out)? {
        // A node's folder may be there already, as the mount point of its disk.
        if !names.contains(&entry.as_str()) || !entries(&out.join(&entry))?.is_empty() {
            let message = format!("{} holds {entry} already; nothing was overwritten", out.display());
            return Err(Failure::wrong_use(message).hint("use a new or an empty folder"));
        }
    }
    plan.write(&out)?;
    print::line(format!("Made cluster {} ({}) in {}:", plan.cluster, plan.cluster_id, out.display()));
    for config in plan.configs() {
        let here = out.join(config.node.as_str());
        print::line(format!("  {} for {}", here.display(), config.me.address));
    }
    print::line("\nNext:");
    if args.node_dir.is_some() {
        for config in plan.configs() {
            let here = out.join(config.node.as_str());
            print::line(format!("  copy {}/ to {} on {}", here.display(), config.dir.display(), config.me.address));
        }
    } else {
        print::line("  copy each folder to the same path on its machine (or use --node-dir), keeping the modes");
    }
    print::line("  on each: trine agent --config DIR/trine.toml");
    print::line(format!("Keep {} in a safe place: its key makes nodes of this cluster.", out.join("ca").display()));
    Ok(())
}
