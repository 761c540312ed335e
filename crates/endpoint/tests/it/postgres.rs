//! Before a real PostgreSQL.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use trine_endpoint::{Backend, Dialer, Endpoint, Kind, Limits, Route, Target, Wire};
use trine_platform::{BootClock, Relays};
use trine_protocol::Epoch;

use crate::bed::{fatal, msg, packet, query, show, within};

/// The newest PostgreSQL of this machine's packages, or of PATH.
fn bin(name: &str) -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = installed.map(|d| d.path().join("bin").join(name)).filter(|p| p.exists()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| name.into())
}

/// A command that runs as an ordinary user: PostgreSQL refuses root.
fn command(name: &str) -> Command {
    let root = String::from_utf8(Command::new("id").arg("-u").output().unwrap().stdout).unwrap().trim() == "0";
    let mut c;
    if root {
        c = Command::new("setpriv");
        c.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(bin(name));
    } else {
        c = Command::new(bin(name));
    }
    c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    c
}

struct Postgres {
    dir: tempfile::TempDir,
    server: Child,
}

impl Postgres {
    /// A primary whose commits wait for a standby that does not exist, when the session wants it.
    fn start() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let data = dir.path().join("data");
        let made = command("initdb").arg("-D").arg(&data).args(["-A", "trust", "-U", "app", "-N"]).status().unwrap();
        assert!(made.success(), "initdb (is PostgreSQL installed?)");
        let server = command("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "synchronous_standby_names=nobody"])
            .args(["-c", "synchronous_commit=local"])
            .arg("-k")
            .arg(dir.path())
            .spawn()
            .unwrap();
        Self { dir, server }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join(".s.PGSQL.5432")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An immediate stop, to the process we started (which setpriv became).
        let _ = Command::new("kill").args(["-QUIT", &self.server.id().to_string()]).status();
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

struct Client {
    stream: TcpStream,
    cancel: Vec<u8>,
}

impl Client {
    async fn connect(on: std::net::SocketAddr) -> Self {
        let mut stream = TcpStream::connect(on).await.unwrap();
        stream.write_all(&packet(196_608, b"user\0app\0database\0postgres\0\0")).await.unwrap();
        let mut c = Self { stream, cancel: vec![] };
        let answer = c.until_ready().await;
        let at = answer.windows(5).position(|w| w == [b'K', 0, 0, 0, 12]).unwrap();
        c.cancel = packet(80_877_102, &answer[at + 5..at + 13]);
        c
    }

    async fn message(&mut self) -> io::Result<Vec<u8>> {
        let mut m = vec![0; 5];
        within(self.stream.read_exact(&mut m)).await?;
        let len = u32::from_be_bytes(m[1..5].try_into().unwrap()) as usize;
        m.resize(len + 1, 0);
        within(self.stream.read_exact(&mut m[5..])).await?;
        Ok(m)
    }

    async fn until_ready(&mut self) -> Vec<u8> {
        let mut all = vec![];
        loop {
            let m = self.message().await.unwrap();
            let last = m[0] == b'Z';
            all.extend(m);
            if last {
                return all;
            }
        }
    }

    async fn query(&mut self, sql: &str) -> Vec<u8> {
        self.stream.write_all(&query(sql)).await.unwrap();
        self.until_ready().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_wait_for_the_standbys_is_never_an_acknowledged_commit() {
    let pg = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let (_routes, rx) = tokio::sync::watch::channel(Route::local(Epoch(1)));
    let dialer = Arc::new(Socket(pg.socket()));
    let limits = Limits { farewell: Duration::from_millis(200), ..Limits::default() };
    let endpoint = Endpoint::new(Kind::Writer, Wire::Postgres, limits, dialer, rx, Arc::new(BootClock), None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let on = listener.local_addr().unwrap();
    let counters = endpoint.counters();
    tokio::spawn(async move { endpoint.run(listener, &Relays::here(), Default::default()).await });

    // Held until the database is up; then served as if nothing were between.
    let mut watcher = Client::connect(on).await;
    watcher.query("create table t (i int)").await;
    let extended = [
        msg(b'P', b"\0insert into t values (2) returning i\0\0\0"),
        msg(b'B', b"\0\0\0\0\0\0\0\0"),
        msg(b'E', b"\0\0\0\0\0"),
        msg(b'S', b""),
    ]
    .concat();
    for (round, insert) in [query("insert into t values (1)"), extended].iter().enumerate() {
        let mut client = Client::connect(on).await;
        client.query("set synchronous_commit = on").await;
        client.stream.write_all(insert).await.unwrap();
        loop {
            let waiting = watcher.query("select count(*) from pg_stat_activity where wait_event = 'SyncRep'").await;
            if show(&waiting).contains("\\x00\\x00\\x00\\x011C") {
                break;
            }
        }
        let mut canceller = TcpStream::connect(on).await.unwrap();
        canceller.write_all(&client.cancel).await.unwrap();
        let mut all = vec![];
        within(client.stream.read_to_end(&mut all)).await.unwrap();
        let text = show(&all);
        assert!(!text.contains("INSERT 0 1"), "{text}");
        let last =
            all.iter().rposition(|b| *b == b'E').map(|_| all.windows(6).rposition(|w| w == b"SFATAL").unwrap() - 5);
        fatal(&all[last.unwrap()..], "08007");
        assert_eq!(counters.snapshot().ended_by_sync_cancel, round as u64 + 1);
    }
    // An ordinary cancel goes on as ever.
    let mut client = Client::connect(on).await;
    client.stream.write_all(&query("select pg_sleep(60)")).await.unwrap();
    loop {
        let waiting = watcher.query("select count(*) from pg_stat_activity where wait_event = 'PgSleep'").await;
        if show(&waiting).contains("\\x00\\x00\\x00\\x011C") {
            break;
        }
    }
    let mut canceller = TcpStream::connect(on).await.unwrap();
    canceller.write_all(&client.cancel).await.unwrap();
    let text = show(&client.until_ready().await);
    assert!(text.contains("C57014"), "{text}");
}
