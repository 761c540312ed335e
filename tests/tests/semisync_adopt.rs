//! A data directory of MariaDB or MySQL from before there was a cluster becomes its first copy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use trine_tests::cluster::{Database, mysql_folder};
use trine_tests::mariadb::{Local, copies, knows_mariadb, knows_mysql};
use trine_tests::scenario::alone;
use trine_tests::wait::wait_for;
use trine_tests::{Cluster, Options, checks, namespace, on_both};

const SOON: Duration = Duration::from_secs(60);

on_both!(an_existing_directory_becomes_the_first_copy);

/// A server from before there was a cluster.
struct Old {
    database: Database,
    data: PathBuf,
}

impl Old {
    fn program(&self) -> PathBuf {
        match self.database {
            Database::Mysql => mysql_folder().join("bin/mysqld"),
            _ => "mariadbd".into(),
        }
    }

    /// An empty one.
    fn install(database: Database, data: &Path) -> Result<Self> {
        let old = Self { database, data: data.to_owned() };
        let datadir = format!("--datadir={}", data.display());
        let mut install = match database {
            Database::Mysql => Command::new(old.program()),
            _ => Command::new("mariadb-install-db"),
        };
        install.arg("--no-defaults");
        if database == Database::Mysql {
            install.args(["--initialize-insecure", "--secure-file-priv=NULL"]);
        } else {
            install.args(["--skip-test-db", "--auth-root-authentication-method=normal"]);
        }
        namespace::run(install.args(["--user=mysql", &datadir]))?;
        Ok(old)
    }

    fn socket(&self) -> PathBuf {
        self.data.with_extension("sock")
    }

    /// Starts it, as one that writes a binary log of the name that a cluster's has.
    fn start(&self) -> Result<(Child, Local)> {
        let mut c = Command::new(self.program());
        c.args(["--no-defaults", "--user=mysql", "--skip-networking", "--log-bin=binlog", "--server-id=77"]);
        c.arg(format!("--datadir={}", self.data.display())).arg(format!("--socket={}", self.socket().display()));
        c.arg(format!("--log-error={}", self.data.with_extension("log").display()));
        if self.database == Database::Mysql {
            c.args(["--mysqlx=OFF", "--secure-file-priv=NULL", "--gtid-mode=ON", "--enforce-gtid-consistency=ON"]);
        }
        let child = c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let session = wait_for("the old server", SOON, || Local::open(&self.socket(), "root", None).map(Some))?;
        Ok((child, session))
    }
}

fn end(mut child: Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process")?;
    kill_process(pid, signal)?;
    child.wait()?;
    Ok(())
}

fn an_existing_directory_becomes_the_first_copy(database: Database) {
    let known = if database == Database::Mysql { knows_mysql() } else { knows_mariadb() };
    match known {
        Ok(()) => adopts(database).unwrap(),
        Err(e) => eprintln!("NOT TRIED: {e:#}"),
    }
}

fn adopts(database: Database) -> Result<()> {
    let _turn = alone()?;
    let options = Options::network().with(database);
    let cluster = Cluster::lay_out(if database == Database::Mysql { "y-adopt" } else { "m-adopt" }, &options)?;
    cluster.init(&options)?;
    let old = cluster.dir().join("old");
    fs::create_dir(&old)?;
    namespace::run(Command::new("chown").arg("mysql:mysql").arg(&old))?;
    let old = Old::install(database, &old.join("data"))?;

    let (server, session) = old.start()?;
    for statement in [
        "create database old_shop",
        "create table old_shop.orders (id int primary key, what varchar(100))",
        "insert into old_shop.orders values (1, 'one'), (2, 'two'), (3, 'three')",
        "create user shop@'%' identified by 'secret'",
        "grant all on old_shop.* to shop@'%'",
        "create user far@'10.1.2.3' identified by 'secret'",
        // An application's user that is called as the cluster's is.
        "create user app@localhost identified by 'another'",
    ] {
        session.rows(statement).with_context(|| statement.to_owned())?;
    }

    // As distributions do it: whoever is root on the machine is the superuser. The agent is root here, and so are its clients then.
    let by_system: &[&str] = match database {
        Database::Mysql => &[
            "install plugin auth_socket soname 'auth_socket.so'",
            "create user nobody@localhost",
            "alter user root@localhost identified with auth_socket",
        ],
        _ => &["alter user root@localhost identified via unix_socket"],
    };
    for statement in by_system {
        session.rows(statement).with_context(|| (*statement).to_owned())?;
    }

    let adopt = || -> Result<Output> {
        let mut c = cluster.command();
        Ok(c.args(["adopt", "--config"]).arg(cluster.config("n1")).arg("--data").arg(&old.data).output()?)
    };
    let refused = |why: &str| -> Result<()> {
        let o = adopt()?;
        let said = String::from_utf8_lossy(&o.stderr).into_owned();
        println!("refused: {said}");
        ensure!(!o.status.success() && said.contains(why), "not refused because {why}: {o:?}");
        ensure!(old.data.join("ibdata1").exists(), "what was refused is not where it was");
        Ok(())
    };
    refused("runs")?;
    session.rows("insert into old_shop.orders values (4, 'four')")?;
    end(server, Signal::KILL)?;
    refused("not shut down cleanly")?;
    // It recovers by itself, as if nobody had looked.
    let (server, session) = old.start()?;
    ensure!(session.value("select count(*) from old_shop.orders")? == "4", "a row of the old server is lost");
    end(server, Signal::TERM)?;

    let adopted = adopt()?;
    let said = String::from_utf8_lossy(&adopted.stdout).into_owned();
    println!("{said}");
    ensure!(adopted.status.success(), "adopt: {}", String::from_utf8_lossy(&adopted.stderr));
    let open = if database == Database::Mysql { "'nobody'@'localhost'" } else { "'root'@'127.0.0.1'" };
    for (who, what) in [
        (open, "locked"),
        ("'root'@'localhost'", "operating system"),
        ("'far'@'10.1.2.3'", "can't come in"),
        ("'app'@'localhost'", "password"),
        ("binary logs", "kept"),
    ] {
        ensure!(said.lines().any(|l| l.contains(who) && l.contains(what)), "nothing is said of {who}, {what}");
    }
    ensure!(!old.data.exists(), "it was copied, on one file system");

    for n in ["n1", "n2", "n3"] {
        cluster.start_node(n)?;
    }
    let healthy = cluster.wait_healthy();
    if healthy.is_err() {
        eprintln!("{}", cluster.tell());
    }
    ensure!(healthy?.primary.as_deref() == Some("n1"), "the adopted copy does not lead");
    let app = cluster.endpoints()?.writer;
    let (_, place) = app.split_once('@').context("a user in the address")?;
    let (place, _) = place.split_once('/').context("a database in the address")?;
    let shop = format!("mysql://shop:secret@{place}/old_shop");
    // The tests' client speaks no TLS, without which MySQL takes a password only that it has seen before (docs/mariadb.md).
    Local::open(&cluster.node("n1").dir.join("run/db/mysqld.sock"), "shop", Some("secret".into()))?;
    checks::select(&cluster, &shop, "insert into orders values (5, 'five')", SOON)?;
    checks::select(&cluster, &app, "create table app.after (id int primary key)", SOON)?;
    for stranger in ["root", "nobody", "far:secret", "app:another"] {
        let uri = format!("mysql://{stranger}@{place}/mysql");
        ensure!(checks::select(&cluster, &uri, "select 1", Duration::from_secs(2)).is_err(), "{stranger} came in");
    }
    copies::identical(&cluster)?;
    for node in cluster.nodes() {
        let rows = Local::of(&cluster, &node.name)?.value("select count(*) from old_shop.orders")?;
        ensure!(rows == "5", "{} has {rows} rows", node.name);
    }
    Ok(())
}
