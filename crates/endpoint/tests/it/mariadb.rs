//! Before a real MariaDB: its own command-line client, and statements by hand.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, UnixStream};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use trine_endpoint::{Backend, Dialer, Endpoint, Kind, Limits, Route, Target, Wire};
use trine_platform::{BootClock, Relays};
use trine_protocol::Epoch;

use crate::bed::within;
use crate::mysql::byhand::Client;
use crate::startup::certificate;

/// As an ordinary user: MariaDB does not like to be root.
fn command(name: &str) -> Command {
    let root = String::from_utf8(Command::new("id").arg("-u").output().unwrap().stdout).unwrap().trim() == "0";
    let mut c = Command::new(if root { "setpriv" } else { name });
    if root {
        c.args(["--reuid=mysql", "--regid=mysql", "--clear-groups", "--", name]);
    }
    c.arg("--no-defaults").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    c
}

fn is_installed() -> bool {
    let found = Command::new("mariadbd").arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("skipped: there is no mariadbd");
    }
    found
}

struct MariaDb {
    dir: tempfile::TempDir,
    server: Child,
}

impl MariaDb {
    fn start() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let data = format!("--datadir={}", dir.path().join("data").display());
        // One that starts deletes what looks like the temporary files of one that has died.
        let tmp = format!("--tmpdir={}", dir.path().display());
        let made = command("mariadb-install-db")
            .args([&data, &tmp, "--auth-root-authentication-method=normal", "--skip-test-db", "--force"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = [made.stdout, made.stderr].concat();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&said));
        let server = command("mariadbd")
            .args([&data, &tmp, "--skip-networking", "--max-allowed-packet=64M", "--local-infile=1"])
            .arg(format!("--socket={}", dir.path().join("socket").display()))
            .args(["--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=128M"])
            .spawn()
            .unwrap();
        Self { dir, server }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        // At once, and the process we started (which setpriv became).
        let _ = Command::new("kill").args(["-KILL", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
    }
}

struct Socket(PathBuf);

#[async_trait]
impl Dialer for Socket {
    async fn dial(&self, _: &Target, _: Epoch) -> io::Result<Backend> {
        Ok(Backend::free(UnixStream::connect(Path::new(&self.0)).await?))
    }
}

/// The command-line client.
struct Cli {
    _process: tokio::process::Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: ChildStderr,
}

impl Cli {
    fn start(port: u16) -> Self {
        Self::with(port, &["--skip-ssl", "-uroot"])
    }

    fn with(port: u16, options: &[&str]) -> Self {
        let mut c = tokio::process::Command::new("mariadb");
        c.args(["--no-defaults", "--batch", "--skip-column-names", "--unbuffered", "--local-infile=1"]);
        c.args(["--max-allowed-packet=64M", "-h127.0.0.1", &format!("-P{port}")]).args(options);
        c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = c.spawn().unwrap();
        let stdin = process.stdin.take().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        let stderr = process.stderr.take().unwrap();
        Self { _process: process, stdin, stdout, stderr }
    }

    async fn say(&mut self, sql: &str) {
        within(async {
            self.stdin.write_all(sql.as_bytes()).await.unwrap();
            self.stdin.write_all(b"\n").await.unwrap();
            self.stdin.flush().await.unwrap();
        })
        .await;
    }

    async fn line(&mut self) -> String {
        match within(self.stdout.next_line()).await.unwrap() {
            Some(line) => line,
            None => panic!("{}", self.complaint().await),
        }
    }

    async fn complaint(&mut self) -> String {
        let mut text = String::new();
        within(self.stderr.read_to_string(&mut text)).await.unwrap();
        text
    }
}

struct Bed {
    endpoint: Endpoint,
    routes: tokio::sync::watch::Sender<Route>,
    port: u16,
    db: MariaDb,
}

impl Bed {
    async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let db = tokio::task::spawn_blocking(MariaDb::start).await.unwrap();
        let (routes, rx) = tokio::sync::watch::channel(Route::local(Epoch(1)));
        let dialer = Arc::new(Socket(db.dir.path().join("socket")));
        let limits = Limits { farewell: Duration::from_millis(200), ..Limits::default() };
        let endpoint = Endpoint::new(Kind::Writer, Wire::MySql, limits, dialer, rx, Arc::new(BootClock), tls);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let running = endpoint.clone();
        tokio::spawn(async move { running.run(listener, &Relays::here(), Default::default()).await });
        Self { endpoint, routes, port, db }
    }

    async fn busy(&self, n: usize) {
        within(async { self.endpoint.busy().watch().wait_for(|b| *b == n).await.map(|_| ()).unwrap() }).await;
    }

    async fn closed(&self) {
        within(async {
            while self.endpoint.counters().snapshot().open > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadbs_own_client_does_not_see_the_endpoint_but_for_its_end() {
    if !is_installed() {
        return;
    }
    let bed = Bed::start(None).await;
    // Held until the database is up.
    let mut cli = Cli::start(bed.port);
    cli.say("create database d; use d; create table t (i int auto_increment primary key, s longblob);").await;
    cli.say("delimiter //\nselect 'one'; insert into t (s) values ('x'); select 'two'//\ndelimiter ;").await;
    assert_eq!((cli.line().await, cli.line().await), ("one".into(), "two".into()));
    cli.say("prepare p from 'select i + ? from t'; set @n = 41; execute p using @n; deallocate prepare p;").await;
    assert_eq!(cli.line().await, "42");
    // More than one packet holds, from either side.
    cli.say("select repeat('y', 17000000);").await;
    let line = cli.line().await;
    assert!(line.len() == 17_000_000 && line.bytes().all(|b| b == b'y'));
    cli.say(&format!("insert into t (s) values ('{}'); select length(s) from t where i = 2;", "z".repeat(17_000_000)))
        .await;
    assert_eq!(cli.line().await, "17000000");
    let file = bed.db.dir.path().join("rows");
    std::fs::write(&file, format!("{}\n", "r".repeat(999)).repeat(20_000)).unwrap();
    cli.say(&format!("load data local infile '{}' into table t (s); select count(*) from t;", file.display())).await;
    assert_eq!(cli.line().await, "20002");
    cli.say("load data local infile '/no/such/file' into table t (s);").await;
    assert!(cli.complaint().await.contains("/no/such/file"));

    // A transaction goes on to its end while the endpoint is paused, and no further.
    let mut cli = Cli::start(bed.port);
    cli.say("set autocommit = 0; select 'first';").await;
    assert_eq!(cli.line().await, "first");
    let mut idle = Cli::start(bed.port);
    idle.say("select 'idle';").await;
    assert_eq!(idle.line().await, "idle");
    cli.say("insert into d.t (s) values ('in a transaction'); select last_insert_id() > 0;").await;
    assert_eq!(cli.line().await, "1");
    bed.routes.send_replace(Route::local(Epoch(1)).draining(true));
    bed.busy(1).await;
    idle.say("select 'held';").await;
    cli.say("select row_count(); commit;").await;
    assert_eq!(cli.line().await, "-1");
    bed.busy(0).await;
    cli.say("select 'held';").await;
    bed.routes.send_replace(Route::local(Epoch(1)));
    assert_eq!((cli.line().await, idle.line().await), ("held".into(), "held".into()));

    // The end is read as the answer to what is said next.
    bed.routes.send_replace(Route::local(Epoch(1)).in_generation(1));
    bed.closed().await;
    cli.say("select 'too late';").await;
    let complaint = cli.complaint().await;
    assert!(complaint.contains("ERROR 1053 (08S01)"), "{complaint}");
    assert!(complaint.contains("terminating connection: the primary has changed"), "{complaint}");

    // A client that asks meanwhile waits, until it is told that there is nothing.
    let mut cli = Cli::start(bed.port);
    cli.say("select sleep(60);").await;
    let mut watcher = Cli::start(bed.port);
    loop {
        watcher.say("select count(*) from information_schema.processlist where info like 'select sleep%';").await;
        if watcher.line().await == "1" {
            break;
        }
    }
    bed.routes.send_replace(Route::hold(Epoch(1), "the lease has run out"));
    let complaint = cli.complaint().await;
    assert!(complaint.contains("ERROR 1053 (08S01)") && complaint.contains("had not been answered"), "{complaint}");
}

/// The endpoint's certificate, though the database has none; and an authentication that goes to and fro.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadbs_own_client_gets_tls_from_the_endpoint() {
    if !is_installed() {
        return;
    }
    let (tls, _) = certificate();
    let bed = Bed::start(Some(tls)).await;
    let mut plain = Cli::start(bed.port);
    plain.say("install soname 'auth_ed25519';").await;
    plain.say("create user e@localhost identified via ed25519 using password('secret'); select 'made';").await;
    assert_eq!(plain.line().await, "made");
    for options in [&["--ssl", "-uroot"][..], &["--ssl", "-ue", "-psecret"], &["--skip-ssl", "-ue", "-psecret"]] {
        let mut cli = Cli::with(bed.port, options);
        cli.say("select repeat('y', 17000000);").await;
        assert_eq!(cli.line().await.len(), 17_000_000);
        // What this command says is not flushed by itself.
        cli.say("status\nselect 'flushed';").await;
        let mut line = String::new();
        while !line.starts_with("SSL:") {
            line = cli.line().await;
        }
        assert_eq!(line.contains("Cipher in use is TLS_"), options.contains(&"--ssl"), "{line}");
        let generation = bed.routes.borrow().generation + 1;
        bed.routes.send_replace(Route::local(Epoch(1)).in_generation(generation));
        bed.closed().await;
        cli.say("select 'too late';").await;
        let complaint = cli.complaint().await;
        assert!(complaint.contains("ERROR 1053 (08S01)"), "{options:?}: {complaint}");
    }
    // Compression begins after the authentication: from there on the session is passed on as it is.
    let mut cli = Cli::with(bed.port, &["--ssl", "--compress", "-ue", "-psecret"]);
    cli.say("select repeat('y', 17000000); show status like 'Compression';").await;
    assert_eq!((cli.line().await.len(), cli.line().await), (17_000_000, "Compression\tON".into()));
    let mut cli = Cli::with(bed.port, &["--ssl", "-ue", "-pwrong"]);
    let complaint = cli.complaint().await;
    assert!(complaint.contains("ERROR 1045 (28000)"), "{complaint}");
}

/// What the command-line client does not say: every form of answer, with and without EOF packets and MariaDB's way to leave out
/// column definitions. The session is followed to its end, or it would not end in an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_are_followed_with_all_that_can_be_agreed_on() {
    if !is_installed() {
        return;
    }
    let bed = Bed::start(None).await;
    for (round, (deprecate_eof, extended)) in
        [(false, 0), (true, 0), (false, 0x14), (true, 0x14)].into_iter().enumerate()
    {
        let mut c = Client::login(bed.port, deprecate_eof, extended).await;
        c.query("create database if not exists d").await;
        c.query("create or replace table d.t (i int, s longblob)").await;
        c.command(b"\x02d").await;
        let insert = c.prepare("insert into t values (?, 'x')").await;
        if extended == 0 {
            c.query("insert into t (i) values (1), (2), (3), (4)").await;
        } else {
            c.bulk_execute(insert, &[1, 2, 3, 4]).await;
        }
        c.execute(insert, Some(5), false).await;
        assert_eq!(c.query("select i from t").await, 5);
        let select = c.prepare("select i, s from t where i > ?").await;
        // From the second time on there may be no definitions.
        for _ in 0..3 {
            assert_eq!(c.execute(select, Some(1), false).await, 4);
        }
        assert_eq!(c.execute(select, Some(1), true).await, 0);
        assert_eq!((c.fetch(select, 3).await, c.fetch(select, 3).await), (3, 1));
        c.command(&[&[0x1a], &select.to_le_bytes()[..]].concat()).await;
        c.unanswered(&[&[0x18], &insert.to_le_bytes()[..], &[0, 0], b"7"].concat()).await;
        c.unanswered(&[&[0x19], &select.to_le_bytes()[..]].concat()).await;
        c.query("create or replace procedure p(out o int) begin select 1; select i from t; set o = 3; end").await;
        let call = c.prepare("call p(?)").await;
        c.execute(call, Some(0), false).await;
        c.query("call p(@x); select 1; update t set i = i; no statement").await;
        c.command(b"\x16no statement").await;
        for command in [&b"\x04t\0"[..], b"\x0a", b"\x0d", b"\x0e", b"\x1b\0\0", b"\x1b\x01\0", b"\x1f"] {
            c.command(command).await;
        }
        c.change_user("root").await;
        // Sent ahead: a statement and its execution, which does not know its number yet.
        c.pipeline(&[b"\x16select 1", b"\x17\xff\xff\xff\xff\0\x01\0\0\0", b"\x03select 2", b"\x0e"]).await;
        bed.busy(1).await;
        bed.routes.send_replace(Route::local(Epoch(1)).in_generation(round as u64 + 1));
        let text = c.last_error().await;
        assert!(text.starts_with("#08S01terminating connection"), "{round}: {text}");
    }
}
