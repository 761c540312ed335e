//! Three PostgreSQL with the settings of a cluster's nodes and nothing around them: what the endpoint and the agent are
//! compared with.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use trine_tests::{Cluster, namespace, postgres, wait_until};

/// The ports of the three, all on 127.0.0.1 of the cluster's own network namespace.
const PORTS: [u16; 3] = [7501, 7502, 7503];

/// Settings that are a node's own, or that clients here must not have: the rest is taken over as it is.
const NOT_TAKEN_OVER: [&str; 19] = [
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "external_pid_file",
    "unix_socket_directories",
    "unix_socket_permissions",
    "listen_addresses",
    "port",
    "cluster_name",
    "primary_conninfo",
    "primary_slot_name",
    "synchronous_standby_names",
    "restore_command",
    "recovery_target_timeline",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_key_file",
    "shared_preload_libraries",
];

/// A primary and two standbys, `ANY 1`.
#[derive(Debug)]
pub(crate) struct Plain<'a> {
    cluster: &'a Cluster,
    dir: PathBuf,
    /// The settings that were taken over.
    pub(crate) settings: Vec<(String, String)>,
}

impl<'a> Plain<'a> {
    /// Makes and starts them beside a cluster, with what its primary runs with.
    pub(crate) fn start(cluster: &'a Cluster) -> Result<Self> {
        let primary = cluster.primary()?;
        let sql = cluster.sql(&primary, "postgres")?;
        let excluded: Vec<String> = NOT_TAKEN_OVER.iter().map(|n| format!("'{n}'")).collect();
        let settings = sql.rows(&format!(
            "select name, current_setting(name) from pg_settings where context <> 'internal' \
             and source not in ('default', 'override', 'client', 'session', 'dynamic default') \
             and name not in ({}) order by name",
            excluded.join(", ")
        ))?;
        let settings: Vec<(String, String)> =
            settings.into_iter().filter_map(|r| Some((r.first()?.clone(), r.get(1)?.clone()))).collect();
        let dir = cluster.dir().join("plain");
        fs::create_dir_all(&dir)?;
        let made = Self { cluster, dir, settings };
        postgres::give(&made.dir)?;
        made.certificate(&made.cluster.node(&primary).dir)?;
        for number in 0..3 {
            made.create(number).with_context(|| format!("plain PostgreSQL {}", number + 1))?;
        }
        made.sql("create role app login superuser", "postgres")?;
        made.sql("create database app owner app", "postgres")?;
        made.sql("alter system set synchronous_standby_names = 'ANY 1 (p2, p3)'", "postgres")?;
        made.sql("select pg_reload_conf()", "postgres")?;
        wait_until("the plain standbys to stream", Duration::from_secs(20), || {
            Ok(made.sql("select count(*) from pg_stat_replication where sync_state = 'quorum'", "postgres")?.trim()
                == "2")
        })?;
        Ok(made)
    }

    fn data(&self, number: usize) -> PathBuf {
        self.dir.join(format!("p{}", number + 1))
    }

    /// The same certificate as the cluster's node: replication is encrypted in both, or in neither.
    fn certificate(&self, node: &Path) -> Result<()> {
        for name in ["node.pem", "node.key"] {
            let to = self.dir.join(name);
            fs::copy(node.join("tls").join(name), &to).with_context(|| format!("{}/tls/{name}", node.display()))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600))?;
            postgres::give(&to)?;
        }
        Ok(())
    }

    /// One of PostgreSQL's programs, as its user, in the clients' network.
    fn tool(&self, program: &str) -> Result<Command> {
        let inside = postgres::program(program)?;
        let mut c = self.cluster.client_namespace().command(inside.get_program());
        c.args(inside.get_args()).current_dir("/");
        Ok(c)
    }

    fn create(&self, number: usize) -> Result<()> {
        let data = self.data(number);
        if number == 0 {
            let mut c = self.tool("initdb")?;
            c.args(["-D"]).arg(&data).args(["-U", "postgres", "-A", "trust", "--data-checksums", "-E", "UTF8", "-N"]);
            namespace::run(&mut c)?;
        } else {
            let mut c = self.tool("pg_basebackup")?;
            c.args(["-h", "127.0.0.1", "-p", &PORTS[0].to_string(), "-U", "postgres", "-c", "fast", "-R", "-N", "-D"]);
            namespace::run(c.arg(&data))?;
        }
        let quoted = |v: &str| v.replace('\'', "''");
        let mut conf = String::new();
        for (name, value) in &self.settings {
            conf.push_str(&format!("{name} = '{}'\n", quoted(value)));
        }
        let dir = self.dir.display();
        conf.push_str(&format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{dir}'\ncluster_name = 'p{}'\n\
             ssl_cert_file = '{dir}/node.pem'\nssl_key_file = '{dir}/node.key'\nlogging_collector = off\n",
            PORTS[number],
            number + 1
        ));
        if number > 0 {
            conf.push_str(&format!(
                "primary_conninfo = 'host=127.0.0.1 port={} user=postgres sslmode=prefer application_name=p{}'\n",
                PORTS[0],
                number + 1
            ));
            fs::write(data.join("postgresql.auto.conf"), "")?;
        }
        fs::write(data.join("postgresql.conf"), conf)?;
        fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhostssl replication all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n\
             host all all 127.0.0.1/32 scram-sha-256\n",
        )?;
        let log = fs::File::create(self.dir.join(format!("p{}.log", number + 1)))?;
        let mut c = self.tool("postgres")?;
        c.arg("-D").arg(&data).stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = c.process_group(0).spawn()?;
        std::thread::spawn(move || child.wait());
        wait_until("plain PostgreSQL to answer", Duration::from_secs(20), || {
            Ok(namespace::run(
                self.tool("pg_isready")?.args(["-h"]).arg(&self.dir).args(["-p", &PORTS[number].to_string()]),
            )
            .is_ok())
        })
    }

    /// A statement on the primary.
    pub(crate) fn sql(&self, sql: &str, database: &str) -> Result<String> {
        let mut c = self.tool("psql")?;
        c.args(["-XAtq", "-U", "postgres", "-p", &PORTS[0].to_string(), "-d", database, "-c", sql, "-h"])
            .arg(&self.dir);
        namespace::run(&mut c)
    }

    /// Where clients connect, directly, with a password as through the endpoint.
    pub(crate) fn uri(&self, password: &str, port: Option<u16>) -> Result<String> {
        ensure!(password.chars().all(|c| c.is_ascii_alphanumeric()), "the password needs no escape");
        self.sql(&format!("alter role app password '{password}'"), "postgres")?;
        Ok(format!("postgresql://app:{password}@127.0.0.1:{}/app", port.unwrap_or(PORTS[0])))
    }

    /// The primary's port.
    pub(crate) fn port() -> u16 {
        PORTS[0]
    }
}
