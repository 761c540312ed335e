//! The databases' own checks, on the files of each copy of a volume.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::Cluster;
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
        let log = fs::read_to_string(place.join("firebird.log")).unwrap_or_default();
        ensure!(
            output.status.success() && said.trim_ascii().is_empty(),
            "gfix on {file} ({}): {}\n{log}",
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
