//! The file as it is written, and the rules that it must keep.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use trine_engine::volume::DatabaseTable;
use trine_protocol::NodeName;

use super::volume::VolumeTable;
use super::{
    Config, ConfigError, Durability, EndpointConfig, EngineConfig, EngineKind, Member, Ports, SyncConfig, Timing,
};

/// Unix sockets' paths are limited to 107 bytes; the longest name below a node's folder is `run/db/.s.PGSQL.65535`.
const LONGEST_DIR: usize = 107 - "/run/db/.s.PGSQL.65535".len();

const LEASE_MS: RangeInclusive<i64> = 300..=60_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: Spanned<String>,
    cluster_id: Spanned<String>,
    node: Spanned<NodeName>,
    dir: Spanned<PathBuf>,
    preset: Option<Spanned<String>>,
    #[serde(default)]
    ports: PortsTable,
    members: Spanned<Vec<Spanned<MemberTable>>>,
    engine: EngineTable,
    database: Option<Spanned<DatabaseTable>>,
    volume: Option<Spanned<VolumeTable>>,
    #[serde(default)]
    sync: SyncTable,
    #[serde(default)]
    timing: TimingTable,
    #[serde(default)]
    endpoint: EndpointTable,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortsTable {
    writer: Option<Spanned<i64>>,
    reader: Option<Spanned<i64>>,
    api: Option<Spanned<i64>>,
    peer: Option<Spanned<i64>>,
    database: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberTable {
    name: Spanned<NodeName>,
    zone: Spanned<String>,
    address: Spanned<String>,
    priority: Option<Spanned<i64>>,
    voter: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EngineTable {
    pub(super) kind: Spanned<String>,
    pub(super) bin_dir: Option<Spanned<PathBuf>>,
    pub(super) user: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) parameters: BTreeMap<String, Spanned<toml::Value>>,
    #[serde(default)]
    pub(super) hba: Vec<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SyncTable {
    acks: Option<Spanned<i64>>,
    durability: Option<Durability>,
    grace_ms: Option<Spanned<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimingTable {
    lease_ms: Option<Spanned<i64>>,
    heartbeat_ms: Option<Spanned<i64>>,
    suspect_ms: Option<Spanned<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointTable {
    hold_ms: Option<Spanned<i64>>,
    max_connections: Option<Spanned<i64>>,
    reader_uses_primary: Option<bool>,
}

/// Parses and checks.
pub(super) fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let file: File = toml::from_str(text).map_err(|e| syntax(path, text, &e))?;
    Check { path, text }.config(file)
}

/// The parser's complaint in one line, with the key that the line is about.
pub(super) fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |s| s.start);
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    let message = match key_at(text, at) {
        Some(key) if !message.contains(&format!("`{key}`")) => format!("{key}: {message}"),
        _ => message,
    };
    ConfigError::Syntax { path: path.to_owned(), line: line_of(text, at), message }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

/// The dotted key of the line at an offset, as far as a look at the line and the table headers above it tells.
fn key_at(text: &str, at: usize) -> Option<String> {
    let mut table = String::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let header = line.trim();
        let is_header = header.starts_with('[') && header.contains(']');
        if is_header {
            table = header.trim_start_matches('[').split(']').next()?.trim().to_owned();
        }
        offset += line.len();
        if at < offset {
            if is_header {
                return Some(table);
            }
            let key = line.split_once('=')?.0.trim();
            let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.\"".contains(c));
            return plain.then(|| if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") });
        }
    }
    None
}

pub(super) struct Check<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Check<'_> {
    pub(super) fn refuse<T>(
        &self,
        at: &Spanned<T>,
        key: &str,
        value: impl std::fmt::Debug,
        allowed: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Value {
            path: self.path.to_owned(),
            line: line_of(self.text, at.span().start),
            key: key.to_owned(),
            value: format!("{value:?}"),
            allowed: allowed.into(),
        }
    }

    /// A value that was found wrong elsewhere.
    pub(super) fn refuse_at(&self, at: usize, key: String, value: String, allowed: String) -> ConfigError {
        ConfigError::Value { path: self.path.to_owned(), line: line_of(self.text, at), key, value, allowed }
    }

    /// A number within bounds.
    pub(super) fn number<T: TryFrom<i64>>(
        &self,
        value: Option<&Spanned<i64>>,
        key: &str,
        default: T,
        bounds: RangeInclusive<i64>,
        unit: &str,
    ) -> Result<T, ConfigError> {
        let Some(v) = value else { return Ok(default) };
        let n = *v.get_ref();
        let fits = if bounds.contains(&n) { T::try_from(n).ok() } else { None };
        fits.ok_or_else(|| self.refuse(v, key, n, format!("use {} to {}{unit}", bounds.start(), bounds.end())))
    }

    fn millis(
        &self,
        value: Option<&Spanned<i64>>,
        key: &str,
        default: u64,
        bounds: RangeInclusive<i64>,
    ) -> Result<Duration, ConfigError> {
        self.number(value, key, default, bounds, " (milliseconds)").map(Duration::from_millis)
    }

    fn config(&self, f: File) -> Result<Config, ConfigError> {
        self.label(&f.cluster, "cluster")?;
        self.label(&f.cluster_id, "cluster_id")?;
        let dir = f.dir.get_ref();
        if !dir.is_absolute() {
            return Err(self.refuse(&f.dir, "dir", dir, "use an absolute path, beginning with /"));
        }
        let length = dir.as_os_str().len();
        if length > LONGEST_DIR {
            let allowed = format!(
                "is {length} bytes long; use at most {LONGEST_DIR}, since unix sockets are below it and their paths \
                 are limited"
            );
            return Err(self.refuse(&f.dir, "dir", dir, allowed));
        }
        let members = self.members(&f.members)?;
        let node = f.node.get_ref();
        let Some(me) = members.iter().find(|m| m.name == *node).cloned() else {
            let names = members.iter().map(|m| m.name.to_string()).collect::<Vec<_>>().join(", ");
            return Err(self.refuse(&f.node, "node", node.as_str(), format!("is no member; use one of {names}")));
        };
        Ok(Config {
            me,
            ports: self.ports(&f.ports)?,
            sync: self.sync(&f.sync, &members, &f.engine.kind)?,
            timing: self.timing(&f.timing)?,
            volume: self.volume(&f.engine.kind, f.preset.as_ref(), f.database.as_ref(), f.volume.as_ref())?,
            engine: self.engine(f.engine)?,
            endpoint: self.endpoint(&f.endpoint)?,
            cluster: f.cluster.into_inner(),
            cluster_id: f.cluster_id.into_inner(),
            node: f.node.into_inner(),
            dir: f.dir.into_inner(),
            members,
        })
    }

    /// A name that is shown to people and stands in file names and certificates.
    fn label(&self, value: &Spanned<String>, key: &str) -> Result<(), ConfigError> {
        let text = value.get_ref();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !text.is_empty() && text.len() <= 63 && text.chars().all(allowed) {
            return Ok(());
        }
        Err(self.refuse(value, key, text, "use 1 to 63 of a-z, A-Z, 0-9, '-', '_' and '.'"))
    }

    fn ports(&self, t: &PortsTable) -> Result<Ports, ConfigError> {
        let default = Ports::default();
        let port =
            |value: &Option<Spanned<i64>>, key, default| self.number(value.as_ref(), key, default, 1..=65535, "");
        let ports = Ports {
            writer: port(&t.writer, "ports.writer", default.writer)?,
            reader: port(&t.reader, "ports.reader", default.reader)?,
            api: port(&t.api, "ports.api", default.api)?,
            peer: port(&t.peer, "ports.peer", default.peer)?,
            database: port(&t.database, "ports.database", default.database)?,
        };
        let written = [&t.writer, &t.reader, &t.api, &t.peer, &t.database];
        let mut taken: Vec<(&str, u16, Option<&Spanned<i64>>)> = Vec::new();
        for ((name, port), here) in ports.named().into_iter().zip(written) {
            if let Some((other, _, there)) = taken.iter().find(|(_, p, _)| *p == port) {
                // At least one of the two is in the file, since the defaults differ: the error points there.
                if let Some(at) = here.as_ref().or(*there) {
                    let key = if here.is_some() { name } else { other };
                    let other = if here.is_some() { other } else { &name };
                    let allowed = format!("is the port of {other} too; each needs its own");
                    return Err(self.refuse(at, &format!("ports.{key}"), port, allowed));
                }
            }
            taken.push((name, port, here.as_ref()));
        }
        Ok(ports)
    }

    fn members(&self, list: &Spanned<Vec<Spanned<MemberTable>>>) -> Result<Vec<Member>, ConfigError> {
        let mut members: Vec<Member> = Vec::new();
        for m in list.get_ref() {
            let member = self.member(m.get_ref())?;
            let m = m.get_ref();
            if members.iter().any(|other| other.name == member.name) {
                let name = member.name.as_str();
                return Err(self.refuse(
                    &m.name,
                    "members.name",
                    name,
                    "is used twice; each member needs its own name",
                ));
            }
            if let Some(other) = members.iter().find(|other| other.address == member.address) {
                let allowed = format!(
                    "is the address of {} too; the ports are the same on all nodes, so each needs its own address",
                    other.name
                );
                return Err(self.refuse(&m.address, "members.address", member.address, allowed));
            }
            if let Some(first) = members.first()
                && first.address.is_loopback() != member.address.is_loopback()
            {
                let allowed = format!(
                    "and {} of {}: either all members are on this machine's loopback or none is",
                    first.address, first.name
                );
                return Err(self.refuse(&m.address, "members.address", member.address, allowed));
            }
            members.push(member);
        }
        self.votes(list, &members)?;
        Ok(members)
    }

    fn member(&self, m: &MemberTable) -> Result<Member, ConfigError> {
        self.label(&m.zone, "members.zone")?;
        let text = m.address.get_ref();
        let address: IpAddr = text.parse().map_err(|_| {
            let allowed = "use an IP address, such as 10.0.0.1 or fd00::1, without a port";
            self.refuse(&m.address, "members.address", text, allowed)
        })?;
        if address.is_unspecified() || address.is_multicast() {
            let allowed = "is no address of one machine; use the one where the other nodes reach this one";
            return Err(self.refuse(&m.address, "members.address", text, allowed));
        }
        Ok(Member {
            name: m.name.get_ref().clone(),
            zone: m.zone.get_ref().clone(),
            address,
            priority: self.number(m.priority.as_ref(), "members.priority", 100, 0..=1000, " (0: never the primary)")?,
            voter: m.voter.unwrap_or(true),
        })
    }

    fn votes(&self, list: &Spanned<Vec<Spanned<MemberTable>>>, members: &[Member]) -> Result<(), ConfigError> {
        let refuse = |value: &dyn std::fmt::Debug, key: &str, allowed: String| {
            let first = list.get_ref().first().map_or_else(|| list.span().start, |m| m.span().start);
            Err(ConfigError::Value {
                path: self.path.to_owned(),
                line: line_of(self.text, first),
                key: key.to_owned(),
                value: format!("{value:?}"),
                allowed,
            })
        };
        let voters: Vec<&Member> = members.iter().filter(|m| m.voter).collect();
        if !matches!(voters.len(), 1 | 3 | 5) {
            let names: Vec<&str> = voters.iter().map(|m| m.name.as_str()).collect();
            let allowed = format!("are {} voters; use 1, 3 or 5 (a member with voter = false is none)", voters.len());
            return refuse(&names, "members", allowed);
        }
        if voters.iter().all(|m| m.priority == 0) {
            let allowed = "on every voter: then none may ever be the primary; give one more than 0".to_owned();
            return refuse(&0, "members.priority", allowed);
        }
        let zones: BTreeSet<&str> = voters.iter().map(|m| m.zone.as_str()).collect();
        for zone in zones {
            let here = voters.iter().filter(|m| m.zone == zone).count();
            if voters.len() > 1 && here * 2 > voters.len() {
                let allowed = format!(
                    "holds {here} of the {} voters: its loss would stop the cluster; spread them over more zones (racks \
                     or machines will do)",
                    voters.len()
                );
                return refuse(&zone, "members.zone", allowed);
            }
        }
        Ok(())
    }

    fn engine(&self, t: EngineTable) -> Result<EngineConfig, ConfigError> {
        let kind = match t.kind.get_ref().as_str() {
            "postgres" => EngineKind::Postgres,
            "volume" => EngineKind::Volume,
            "mariadb" => EngineKind::MariaDb,
            "mysql" => EngineKind::MySql,
            other => {
                let allowed = "use \"postgres\", \"mariadb\", \"mysql\", or \"volume\" for any other database";
                return Err(self.refuse(&t.kind, "engine.kind", other, allowed));
            }
        };
        match (kind, t.hba.first()) {
            (EngineKind::Volume, _) => self.nothing_of_postgres(&t)?,
            (EngineKind::MariaDb | EngineKind::MySql, Some(line)) => {
                let allowed = "is PostgreSQL's pg_hba.conf; with another database accounts say who may come in";
                return Err(self.refuse(line, "engine.hba", line.get_ref(), allowed));
            }
            _ => {}
        }
        if let Some(dir) = t.bin_dir.as_ref().filter(|d| !d.get_ref().is_absolute()) {
            let allowed = "use an absolute path, beginning with /";
            return Err(self.refuse(dir, "engine.bin_dir", dir.get_ref(), allowed));
        }
        if let Some(user) = t.user.as_ref().filter(|u| matches!(u.get_ref().as_str(), "" | "root" | "0")) {
            let allowed = "use an ordinary user; a database does not run as root";
            return Err(self.refuse(user, "engine.user", user.get_ref(), allowed));
        }
        let mut parameters = BTreeMap::new();
        for (name, value) in &t.parameters {
            self.parameter(name, value.get_ref(), value, &mut parameters)?;
        }
        for line in &t.hba {
            let text = line.get_ref();
            if text.trim().is_empty() || text.chars().any(|c| c.is_control() && c != '\t') {
                return Err(self.refuse(
                    line,
                    "engine.hba",
                    text,
                    "use one rule, such as \"local app app scram-sha-256\"",
                ));
            }
        }
        Ok(EngineConfig {
            kind,
            bin_dir: t.bin_dir.map(Spanned::into_inner),
            user: t.user.map(Spanned::into_inner),
            parameters,
            hba: t.hba.into_iter().map(Spanned::into_inner).collect(),
        })
    }

    /// One setting of the database. `a.b = 1` without quotes is a table in TOML, but means the setting `a.b`.
    fn parameter(
        &self,
        name: &str,
        value: &toml::Value,
        at: &Spanned<toml::Value>,
        into: &mut BTreeMap<String, String>,
    ) -> Result<(), ConfigError> {
        let key = format!("engine.parameters.{name}");
        let good_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.$".contains(c));
        if !good_name {
            return Err(self.refuse(at, &key, value, "is no setting's name; use letters, digits, '_' and '.'"));
        }
        let text = match value {
            toml::Value::String(s) => s.clone(),
            toml::Value::Integer(n) => n.to_string(),
            toml::Value::Float(n) => n.to_string(),
            toml::Value::Boolean(b) => if *b { "on" } else { "off" }.to_owned(),
            toml::Value::Table(t) => {
                for (inner, value) in t {
                    self.parameter(&format!("{name}.{inner}"), value, at, into)?;
                }
                return Ok(());
            }
            other => {
                return Err(self.refuse(at, &key, other, "use a string, a number, true or false"));
            }
        };
        if text.chars().any(char::is_control) {
            return Err(self.refuse(at, &key, text, "must not contain a line break or another control character"));
        }
        into.insert(name.to_ascii_lowercase(), text);
        Ok(())
    }

    fn sync(&self, t: &SyncTable, members: &[Member], kind: &Spanned<String>) -> Result<SyncConfig, ConfigError> {
        let standbys = members.iter().filter(|m| m.voter).count().saturating_sub(1);
        if let Some(acks) =
            t.acks.as_ref().filter(|a| *a.get_ref() > 1 && matches!(kind.get_ref().as_str(), "mariadb" | "mysql"))
        {
            let allowed = "use 1: with this engine commits wait for one standby, and can't be made to wait for more";
            return Err(self.refuse(acks, "sync.acks", acks.get_ref(), allowed));
        }
        let acks = t.acks.as_ref().map_or_else(|| i64::from(standbys > 0), |a| *a.get_ref());
        let least = usize::from(standbys > 0);
        let acks = match usize::try_from(acks) {
            Ok(n) if (least..=standbys).contains(&n) => n,
            _ => {
                let allowed = if standbys == 0 {
                    "use 0: this cluster has no standby that could acknowledge".to_owned()
                } else {
                    format!("use 1 to {standbys}: this cluster has {standbys} standbys with a vote")
                };
                // Only a value in the file can be out of bounds.
                let at = t.acks.clone().unwrap_or_else(|| Spanned::new(0..0, acks));
                return Err(self.refuse(&at, "sync.acks", acks, allowed));
            }
        };
        Ok(SyncConfig {
            acks,
            durability: t.durability.unwrap_or_default(),
            grace: self.millis(t.grace_ms.as_ref(), "sync.grace_ms", 10_000, 0..=3_600_000)?,
        })
    }

    fn timing(&self, t: &TimingTable) -> Result<Timing, ConfigError> {
        let lease = self.millis(t.lease_ms.as_ref(), "timing.lease_ms", 1000, LEASE_MS)?;
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let heartbeat = self.millis(t.heartbeat_ms.as_ref(), "timing.heartbeat_ms", lease_ms / 10, 10..=20_000)?;
        if let Some(at) = t.heartbeat_ms.as_ref().filter(|_| heartbeat * 3 >= lease) {
            let allowed = format!(
                "use less than a third of timing.lease_ms ({lease_ms}), so that one lost heartbeat ends no lease"
            );
            return Err(self.refuse(at, "timing.heartbeat_ms", at.get_ref(), allowed));
        }
        let suspect = self.millis(t.suspect_ms.as_ref(), "timing.suspect_ms", lease_ms * 6 / 10, 50..=59_999)?;
        if let Some(at) = t.suspect_ms.as_ref().filter(|_| suspect >= lease) {
            let allowed = format!("use less than timing.lease_ms ({lease_ms})");
            return Err(self.refuse(at, "timing.suspect_ms", at.get_ref(), allowed));
        }
        if suspect < heartbeat * 2 {
            let at = t.suspect_ms.as_ref().or(t.heartbeat_ms.as_ref());
            let at = at.cloned().unwrap_or_else(|| Spanned::new(0..0, 0));
            let (key, other) = if t.suspect_ms.is_some() {
                ("timing.suspect_ms", format!("use at least twice timing.heartbeat_ms ({})", heartbeat.as_millis()))
            } else {
                ("timing.heartbeat_ms", format!("use at most half of timing.suspect_ms ({})", suspect.as_millis()))
            };
            return Err(self.refuse(&at, key, at.get_ref(), other));
        }
        Ok(Timing { lease, heartbeat, suspect })
    }

    fn endpoint(&self, t: &EndpointTable) -> Result<EndpointConfig, ConfigError> {
        Ok(EndpointConfig {
            hold: self.millis(t.hold_ms.as_ref(), "endpoint.hold_ms", 30_000, 0..=3_600_000)?,
            max_connections: self.number(
                t.max_connections.as_ref(),
                "endpoint.max_connections",
                1000,
                1..=100_000,
                "",
            )?,
            reader_uses_primary: t.reader_uses_primary.unwrap_or(true),
        })
    }
}
