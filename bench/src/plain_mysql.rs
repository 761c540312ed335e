//! Three MariaDB or MySQL with the settings of a cluster's nodes and no agent around them: what the endpoint is compared with.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use trine_tests::cluster::mysql_folder;
use trine_tests::mariadb::Local;
use trine_tests::{Cluster, namespace, wait_for, wait_until};

use crate::engine::Engine;

/// The ports of the three, all on 127.0.0.1 of the cluster's own network namespace.
const PORTS: [u16; 3] = [7511, 7512, 7513];

/// Settings that are a node's own, or that keep clients and standbys away which here have no agent to come through.
const NOT_TAKEN_OVER: [&str; 9] = [
    "datadir",
    "socket",
    "pid_file",
    "server_id",
    "tmpdir",
    "ignore_db_dirs",
    "skip_networking",
    "read_only",
    "super_read_only",
];

const PASSWORD: &str = "benchmark0";

const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// What the two call the same things.
struct Words {
    section: &'static str,
    wait_for_standbys: &'static str,
    acknowledge: &'static str,
    /// From where a standby takes the log, but for the port.
    follow: &'static str,
    start: &'static str,
    /// States of the primary: whether commits wait, how many standbys acknowledge, how many commits went through without.
    waits: &'static str,
    acknowledging: &'static str,
    unacknowledged: &'static str,
}

// A beat each second, and no TLS between database and database, as with trine.
const MARIADB: Words = Words {
    section: "mariadbd",
    wait_for_standbys: "set global rpl_semi_sync_master_enabled = ON",
    acknowledge: "set global rpl_semi_sync_slave_enabled = ON",
    follow: "change master to master_host = '127.0.0.1', master_user = 'replication', master_password = 'benchmark0', \
        master_connect_retry = 1, master_heartbeat_period = 1, master_ssl = 0, master_use_gtid = slave_pos, master_port = ",
    start: "start slave",
    waits: "Rpl_semi_sync_master_status",
    acknowledging: "Rpl_semi_sync_master_clients",
    unacknowledged: "Rpl_semi_sync_master_no_tx",
};

const MYSQL: Words = Words {
    section: "mysqld",
    wait_for_standbys: "set global rpl_semi_sync_source_enabled = ON",
    acknowledge: "set global rpl_semi_sync_replica_enabled = ON",
    follow: "change replication source to source_host = '127.0.0.1', source_user = 'replication', \
        source_password = 'benchmark0', source_connect_retry = 1, source_heartbeat_period = 1, source_ssl = 0, \
        get_source_public_key = 1, source_auto_position = 1, source_port = ",
    start: "start replica",
    waits: "Rpl_semi_sync_source_status",
    acknowledging: "Rpl_semi_sync_source_clients",
    unacknowledged: "Rpl_semi_sync_source_no_tx",
};

/// A primary and two standbys, of which one has to acknowledge.
pub(crate) struct PlainMysql<'a> {
    cluster: &'a Cluster,
    engine: Engine,
    words: &'static Words,
    dir: PathBuf,
    /// The settings that were taken over.
    pub(crate) settings: Vec<String>,
    primary: Option<Local>,
}

impl<'a> PlainMysql<'a> {
    /// Makes and starts them beside a cluster, with what its primary runs with.
    pub(crate) fn start(cluster: &'a Cluster, engine: Engine) -> Result<Self> {
        let words = if engine == Engine::Mysql { &MYSQL } else { &MARIADB };
        let settings = taken_over(&cluster.node(&cluster.primary()?).dir.join("conf/my.cnf"))?;
        let dir = cluster.dir().join("plain");
        fs::create_dir_all(&dir)?;
        give(&dir)?;
        let mut made = Self { cluster, engine, words, dir, settings, primary: None };
        let sessions = [0, 1, 2].map(|n| made.create(n).with_context(|| format!("plain {} {}", engine.name(), n + 1)));
        let [primary, first, second] = sessions;
        let (primary, standbys) = (primary?, [first?, second?]);
        for statement in [
            "create user replication@'%' identified by 'benchmark0'",
            "grant replication slave on *.* to replication@'%'",
            "create user app@'%' identified by 'benchmark0'",
            "create database app character set utf8mb4",
            "grant all on app.* to app@'%'",
            // Nobody acknowledges yet: from here on commits wait.
            words.wait_for_standbys,
        ] {
            primary.rows(statement)?;
        }
        for standby in standbys {
            let follow = format!("{}{}", words.follow, PORTS[0]);
            ["set global read_only = ON", words.acknowledge, &follow, words.start]
                .into_iter()
                .try_for_each(|statement| standby.rows(statement).map(drop))?;
        }
        wait_until("two plain standbys to acknowledge", STARTS_WITHIN, || {
            Ok(status(&primary, words.acknowledging)? == "2")
        })?;
        made.primary = Some(primary);
        made.has_waited()?;
        Ok(made)
    }

    /// Each commit so far was acknowledged by a standby, and the next will be.
    pub(crate) fn has_waited(&self) -> Result<()> {
        let primary = self.primary.as_ref().context("it has not been started")?;
        let said = [self.words.waits, self.words.acknowledging, self.words.unacknowledged].map(|s| status(primary, s));
        let [waits, acknowledging, unacknowledged] = said;
        let said = (waits?, acknowledging?, unacknowledged?);
        ensure!(
            (said.0.as_str(), said.1.as_str()) == ("ON", "2") && said.2 == "0",
            "the plain primary does not wait for its standbys as it has to: {said:?}"
        );
        Ok(())
    }

    /// Where clients connect.
    pub(crate) fn uri() -> String {
        format!("mysql://app:{PASSWORD}@127.0.0.1:{}/app", PORTS[0])
    }

    /// One of its programs, in the clients' network.
    fn program(&self, name: &str) -> Command {
        let program = match self.engine {
            Engine::Mysql => mysql_folder().join("bin").join(name),
            _ => name.into(),
        };
        let mut c = self.cluster.client_namespace().command(program.as_os_str());
        c.current_dir("/");
        c
    }

    fn create(&self, number: usize) -> Result<Local> {
        let name = format!("p{}", number + 1);
        let below = |end: &str| self.dir.join(format!("{name}{end}"));
        let (data, socket, tools, conf) = (below(""), below(".sock"), below(".tmp"), below(".cnf"));
        for folder in [&data, &tools] {
            fs::create_dir_all(folder)?;
            give(folder)?;
        }
        let at = format!("--datadir={}", data.display());
        let mut install = match self.engine {
            Engine::Mysql => self.program("mysqld"),
            _ => self.program("mariadb-install-db"),
        };
        install.args(["--no-defaults", "--user=mysql", &at]);
        install.args(match self.engine {
            Engine::Mysql => ["--initialize-insecure", "--auto-generate-certs=OFF", "--secure-file-priv=NULL"],
            _ => ["--skip-test-db", "--skip-name-resolve", "--auth-root-authentication-method=normal"],
        });
        namespace::run(&mut install)?;
        let own = format!(
            "datadir = {}\nsocket = {}\npid_file = {}\ntmpdir = {}\nserver_id = {}\nport = {}\nbind_address = 127.0.0.1\n",
            data.display(),
            socket.display(),
            below(".pid").display(),
            tools.display(),
            number + 1,
            PORTS[number]
        );
        fs::write(&conf, format!("[{}]\n{}\n{own}", self.words.section, self.settings.join("\n")))?;
        let log = File::create(below(".log"))?;
        let mut server = self.program(self.words.section);
        server.arg(format!("--defaults-file={}", conf.display())).arg("--user=mysql");
        server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child = server.spawn()?;
        let started = wait_for("a session", STARTS_WITHIN, || {
            ensure!(child.try_wait()?.is_none(), "it has ended");
            Local::open(&socket, "root", None).map(Some)
        });
        // Collects its exit: it ends with the cluster's network.
        std::thread::spawn(move || child.wait());
        started.with_context(|| fs::read_to_string(below(".log")).unwrap_or_default())
    }
}

/// The lines of a node's settings file that are not the node's own.
fn taken_over(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let settings = text.lines().filter(|line| {
        let name = line.split_once(" = ").map(|(name, _)| name);
        name.is_some_and(|name| !name.starts_with('#') && !NOT_TAKEN_OVER.contains(&name))
    });
    Ok(settings.map(str::to_owned).collect())
}

fn status(session: &Local, name: &str) -> Result<String> {
    let row = session.rows(&format!("show global status like '{name}'"))?.into_iter().next();
    row.and_then(|row| row.into_iter().nth(1)).with_context(|| format!("it has no {name}"))
}

/// The database's user writes there.
fn give(path: &Path) -> Result<()> {
    namespace::run(Command::new("chown").arg("mysql:mysql").arg(path)).map(drop)
}
