//! The databases' own checks, on the files of each copy of a volume.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::Cluster;
use crate::mariadb;
use crate::namespace;
use crate::volume::copies;

/// Takes the files out of each copy, and has them checked; what was found in order. The cluster must be dead.
///
/// # Errors
/// What the check finds, and in whose copy.
pub fn each_copy(cluster: &Cluster, check: fn(&Path) -> Result<String>) -> Result<String> {
    let mut found = Vec::new();
    for node in cluster.nodes() {
        let files = cluster.dir().join("files").join(&node.name);
        copies::take_out(&node.dir.join("volume"), &files).with_context(|| format!("the files of {}", node.name))?;
        found.push(check(&files).with_context(|| format!("the copy of {}", node.name))?);
        fs::remove_dir_all(&files)?;
    }
    ensure!(found.windows(2).all(|two| two[0] == two[1]), "the checks of the copies say different things: {found:?}");
    found.pop().map(|what| format!("{what}, in each of the three copies")).context("no copy")
}

/// `redis-check-aof`, on the append-only file that the manifest names.
///
/// # Errors
/// What it finds. What a crash can leave at the file's end, and Redis takes off when it starts, is none of that.
pub fn redis(files: &Path) -> Result<String> {
    let manifest = files.join("appendonlydir/appendonly.aof.manifest");
    let said = namespace::run(Command::new("redis-check-aof").arg(&manifest))?;
    ensure!(said.contains("All AOF files and manifest are valid"), "redis-check-aof: {said}");
    Ok("redis-check-aof finds nothing".to_owned())
}

/// `gfix -v -full`, by Firebird's engine in the process of the check itself.
///
/// # Errors
/// What it finds.
pub fn firebird(files: &Path) -> Result<String> {
    let place = files.join("check");
    fs::create_dir(&place)?;
    let settings = format!("ServerMode = Super\nSecurityDatabase = {}/security3.fdb\n", files.display());
    fs::write(place.join("firebird.conf"), settings)?;
    let with = |program: &str| {
        let mut c = Command::new(program);
        c.env("FIREBIRD", &place).env("FIREBIRD_LOCK", &place).env("FIREBIRD_TMP", &place);
        c
    };
    let database = files.join("app.fdb");
    for file in ["security3.fdb", "app.fdb"] {
        let output = with("gfix").args(["-v", "-full", "-user", "sysdba"]).arg(files.join(file)).output()?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(
            output.status.success() && said.trim_ascii().is_empty(),
            "gfix on {file} ({}; Firebird's log says more): {}",
            output.status,
            String::from_utf8_lossy(&said)
        );
    }
    fs::write(place.join("count"), "set heading off; select count(*) from torture_list;\n")?;
    let rows = namespace::run(
        with("isql-fb").args(["-q", "-bail", "-user", "sysdba", "-i"]).arg(place.join("count")).arg(database),
    )?;
    Ok(format!("gfix -v -full finds nothing in {} rows", rows.trim()))
}

/// `PRAGMA integrity_check`, of what a recovery makes of the database and its log.
///
/// # Errors
/// What it finds.
pub fn sqlite(files: &Path) -> Result<String> {
    let checks = "pragma integrity_check; select count(*) from list;";
    let said = namespace::run(Command::new("sqlite3").arg(files.join("main.db")).arg(checks))?;
    let mut lines = said.lines();
    ensure!(lines.next() == Some("ok"), "pragma integrity_check: {said}");
    Ok(format!("pragma integrity_check finds nothing in {} rows", lines.next().unwrap_or_default()))
}

/// `CHECK TABLE … EXTENDED`, by a server that has recovered the files, and each table's checksum.
///
/// # Errors
/// What it finds.
pub fn mariadb(files: &Path) -> Result<String> {
    let mut server = mariadb::Alone::start(files)?;
    let tables = server.local()?;
    let count = tables.check_tables()?;
    let sums: Vec<String> = tables.checksums()?.into_iter().map(|(table, sum)| format!("{table} {sum}")).collect();
    Ok(format!("check table finds nothing in {count} tables ({})", sums.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("trine-verify-{}-{name}", crate::process::own_id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn redis_sees_a_damaged_file() {
        let dir = folder("redis");
        fs::create_dir(dir.join("appendonlydir")).unwrap();
        let at = |file: &str| dir.join("appendonlydir").join(file);
        fs::write(at("appendonly.aof.manifest"), "file appendonly.aof.1.incr.aof seq 1 type i\n").unwrap();
        let push = "*3\r\n$5\r\nRPUSH\r\n$1\r\na\r\n$1\r\n1\r\n";
        let whole = format!("*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n{push}{push}");
        fs::write(at("appendonly.aof.1.incr.aof"), &whole).unwrap();
        redis(&dir).unwrap();
        fs::write(at("appendonly.aof.1.incr.aof"), whole.replacen("RPUSH\r\n", "\0\0\0\0\0\0\0", 1)).unwrap();
        redis(&dir).unwrap_err();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn sqlite_sees_a_damaged_page() {
        let dir = folder("sqlite");
        let rows = "create table list (pos integer primary key, value integer not null); with recursive n(i) as \
                    (select 1 union all select i + 1 from n where i < 2000) insert into list select i, i * 7 from n;";
        namespace::run(Command::new("sqlite3").arg(dir.join("main.db")).arg(rows)).unwrap();
        assert!(sqlite(&dir).unwrap().ends_with("in 2000 rows"));
        let mut bytes = fs::read(dir.join("main.db")).unwrap();
        bytes[3 * 4096..3 * 4096 + 64].fill(0);
        fs::write(dir.join("main.db"), bytes).unwrap();
        sqlite(&dir).unwrap_err();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn mariadb_sees_a_damaged_page() {
        if !namespace::on_path("mariadbd") {
            eprintln!("NOT TRIED: there is no MariaDB here (package mariadb-server)");
            return;
        }
        let dir = folder("mariadb");
        namespace::run(Command::new("chown").arg("mysql:mysql").arg(&dir)).unwrap();
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--user=mysql", "--skip-test-db"]).arg(format!("--datadir={}", dir.display()));
        namespace::run(&mut install).unwrap();
        let mut server = mariadb::Alone::start(&dir).unwrap();
        let local = server.local().unwrap();
        for statement in [
            "create database app",
            "create table app.list (pos bigint primary key, val bigint not null, key (val))",
            "insert into app.list select seq, seq * 7 from app.seq_1_to_5000",
        ] {
            local.rows(statement).unwrap();
        }
        server.stop(local).unwrap();
        assert!(mariadb(&dir).unwrap().starts_with("check table finds nothing in 1 tables (`app`.`list` "));
        let file = dir.join("app/list.ibd");
        let mut bytes = fs::read(&file).unwrap();
        // The first pages say what is in the file, and the next are the roots of its two indexes.
        let page = 16384;
        let leaf = bytes.len() / page - 1;
        let used = (5..=leaf).rev().find(|n| bytes[n * page + 4..n * page + 8] != [0; 4]).unwrap();
        bytes[used * page + 200..used * page + 264].fill(0xA5);
        fs::write(&file, bytes).unwrap();
        mariadb(&dir).unwrap_err();
        fs::remove_dir_all(dir).unwrap();
    }
}
