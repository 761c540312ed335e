//! Descriptions: laid over each other, resolved, and what clients are given.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::EngineError;

fn part(text: &str) -> Part {
    toml::from_str::<DatabaseTable>(text).unwrap().check().unwrap()
}

fn place(dir: &Path) -> Place {
    Place::of(dir, "127.0.0.2".parse().unwrap(), 6500, "secret-password")
}

/// A folder that every user can pass.
fn open_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

fn user() -> &'static str {
    if rustix::process::geteuid().is_root() { "user = 'nobody'\n" } else { "" }
}

fn resolve(text: &str) -> Result<DatabaseSpec, EngineError> {
    let dir = open_folder();
    part(&format!("{}{text}", user())).complete().unwrap().resolve(place(dir.path()))
}

#[test]
fn every_preset_is_right() {
    for name in PRESETS {
        let database = preset(name).unwrap_or_else(|| panic!("{name} can't be read")).complete();
        let database = database.unwrap_or_else(|| panic!("{name} has no command"));
        assert!(database.package().is_some() && database.user().is_some(), "{name}");
        let at: [SocketAddr; 2] = ["10.0.0.1:6432".parse().unwrap(), "10.0.0.2:6432".parse().unwrap()];
        let uris = database.uris(&at, "app", "a/b");
        assert!(uris[0].contains("a%2Fb") && uris[0].contains("10.0.0.1:6432"), "{uris:?}");
    }
    assert!(preset("oracle").is_none());
}

#[test]
fn uris_are_what_clients_take() {
    let at: [SocketAddr; 2] = ["127.0.0.2:6432".parse().unwrap(), "[fd00::1]:6432".parse().unwrap()];
    let of = |name: &str| preset(name).unwrap().complete().unwrap().uris(&at, "app", "pw");
    assert_eq!(of("redis"), ["redis://:pw@127.0.0.2:6432", "redis://:pw@[fd00::1]:6432"]);
    let all = "postgresql://app:pw@127.0.0.2:6432,[fd00::1]:6432/app?target_session_attrs=any";
    assert_eq!(of("postgres"), [all]);
}

#[test]
fn a_table_is_laid_over_a_preset_key_by_key() {
    let below = part(
        "command = 'a'\nargs = ['1']\nuser = 'p'\npackage = 'pa'\nenv = { A = '1', B = '2' }\nready = { tcp = true, within_ms = 5000 }",
    );
    let below = below.into_preset();
    let over = part("env = { B = '3' }\nready = { every_ms = 70 }\nhealth = { failures = 9 }").over(below.clone());
    let both = over.complete().unwrap();
    assert_eq!((both.args.len(), both.user()), (1, Some("p")));
    assert_eq!(both.env.iter().map(|(k, v)| format!("{k}{v}")).collect::<Vec<_>>(), ["A1", "B3"]);
    assert_eq!((both.ready.every, both.ready_within), (Duration::from_millis(70), Duration::from_secs(5)));
    assert_eq!((both.health_failures, both.stop_patience), (9, Duration::from_secs(20)));
    // Another program has other arguments.
    let other = part("command = 'b'").over(below).complete().unwrap();
    assert_eq!((other.args.len(), other.package()), (0, None));
}

#[test]
fn placeholders_lead_to_the_nodes_folder_and_its_own_address() {
    let text = "command = 'sh'\nargs = ['{data}', '{run}/x', '{log}', '{dir}', '{address}:{port}', '{user}']\n\
                env = { PW = '{password}', HOME = '{data}' }\nfiles = { 'a.conf' = 'p {password}' }\nremove = ['x.pid']";
    let spec = resolve(text).unwrap();
    let dir = spec.place.dir.display();
    let expected = [
        format!("{dir}/data"),
        format!("{dir}/run/db/x"),
        format!("{dir}/log/db"),
        dir.to_string(),
        "127.0.0.2:6500".into(),
        "app".into(),
    ];
    assert_eq!(spec.program.args, expected);
    let env = |key: &str| spec.env.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).unwrap();
    assert_eq!((env("PW"), env("HOME"), env("LC_ALL")), ("secret-password", expected[0].as_str(), "C"));
    assert_eq!(spec.listen, Listen::Tcp("127.0.0.2:6500".parse().unwrap()));
    assert_eq!(spec.workdir, spec.place.run);
    assert_eq!(spec.remove, [spec.place.data.join("x.pid")]);
    let moved = spec.with_data(Path::new("/elsewhere")).unwrap();
    assert_eq!((moved.program.args[0].as_str(), &moved.program.args[1]), ("/elsewhere", &expected[1]));
    assert!(!format!("{spec:?} {:?}", spec.order(Path::new("/r"), "/l".into())).contains("secret-password"));
    // Elsewhere than on loopback the database still listens on loopback.
    assert_eq!(Place::of(Path::new("/x"), "10.0.0.1".parse().unwrap(), 1, "").address.to_string(), "127.0.0.1");
}

#[test]
fn only_the_folders_of_the_database_are_looked_through_for_its_processes() {
    let workdir = |text: &str| {
        let spec = resolve(&format!("command = 'sh'\nworkdir = '{text}'")).unwrap();
        (spec.workplaces().len(), spec.workdir)
    };
    assert_eq!(workdir("/"), (2, PathBuf::from("/")));
    assert_eq!(workdir("{dir}").0, 2);
    assert_eq!(workdir("{dir}/work").0, 3);
}

#[test]
fn what_is_missing_is_named() {
    let said = |text: &str| resolve(text).unwrap_err().to_string();
    let e = said("command = 'no-such-db'\npackage = 'nsdb'");
    assert!(e.contains("no-such-db was not found in PATH") && e.contains("install the package nsdb"), "{e}");
    let e = said("command = '/nowhere/db'");
    assert!(e.contains("/nowhere/db was not found:") && !e.contains("package"), "{e}");
    assert!(said("command = 'sh'\nready = { command = ['no-such-check'] }").contains("no-such-check"));
    assert!(said("command = 'sh'\ninit = [['no-such-init']]").contains("no-such-init"));
    let long = format!("command = 'sh'\nlisten = '{{run}}/{}'", "x".repeat(100));
    assert!(said(&long).contains("longer than 107 bytes"));
    let e = part("command = 'sh'\nuser = 'no-such-user'").complete().unwrap().resolve(place(open_folder().path()));
    assert!(e.unwrap_err().to_string().contains("database.user"));
}

#[test]
fn a_presets_user_comes_with_its_package_and_matters_to_root_only() {
    let dir = open_folder();
    let database = part("command = 'sh'\nuser = 'no-such-user'\npackage = 'nsdb'").into_preset().complete().unwrap();
    let resolved = database.resolve(place(dir.path()));
    if rustix::process::geteuid().is_root() {
        let e = resolved.unwrap_err().to_string();
        assert!(e.contains("no-such-user") && e.contains("install the package nsdb"), "{e}");
        // Nobody named, and the folder is root's.
        let e = part("command = 'sh'").complete().unwrap().resolve(place(dir.path())).unwrap_err().to_string();
        assert!(e.contains("does not run as root") && e.contains("database.user"), "{e}");
    } else {
        assert!(resolved.is_ok());
    }
}

#[test]
fn a_password_that_would_need_quotes_is_refused_where_it_stands_in_a_file() {
    let dir = open_folder();
    let odd = || Place { password: "it's \"odd\"".into(), ..place(dir.path()) };
    let try_it = |text: &str| part(&format!("{}{text}", user())).complete().unwrap().resolve(odd());
    assert!(try_it("command = 'sh'\nenv = { A = '{password}' }").is_ok());
    for text in ["files = { a = '{password}' }", "ready = { send = '{password}' }"] {
        let e = try_it(&format!("command = 'sh'\n{text}")).unwrap_err().to_string();
        assert!(e.contains("app_password") && !e.contains("odd"), "{e}");
    }
}

#[test]
fn a_database_in_a_container_that_is_reached_by_its_socket_needs_no_port() {
    let dir = open_folder();
    let resolve = |text: &str| {
        let place = Place::of(dir.path(), "127.0.0.1".parse().unwrap(), 4000, "pw");
        part(&format!("image = 'i'\n{text}")).complete().unwrap().resolve(place)
    };
    let e = resolve("").unwrap_err().to_string();
    assert!(e.contains("database.port"), "{e}");
    resolve("port = 5000").unwrap();
    resolve("listen = '{run}/db.sock'").unwrap();
}

/// One that is asked while it reads its file says so, and goes on talking if it is not told to end. The next try must not wait
/// for the deadline of the first.
#[tokio::test]
async fn a_redis_that_is_loading_is_asked_again_soon() {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let redis = tokio::spawn(async move {
        for ping in ["-LOADING Redis is loading the dataset in memory\r\n", "+PONG\r\n"] {
            let (stream, _) = listener.accept().await.unwrap();
            let mut lines = BufReader::new(stream).lines();
            while let Some(line) = lines.next_line().await.unwrap() {
                let answer = if line == "PING" { ping } else { "+OK\r\n" };
                // It may have heard enough.
                let _ = lines.get_mut().get_mut().write_all(answer.as_bytes()).await;
                if line == "QUIT" {
                    break;
                }
            }
        }
    });
    let dir = open_folder();
    let over = part(&format!("{}command = 'sh'", user())).over(preset("redis").unwrap());
    let spec =
        over.complete().unwrap().resolve(Place::of(dir.path(), "127.0.0.2".parse().unwrap(), port, "pw")).unwrap();
    assert!(spec.ready.check.deadline > Duration::from_secs(4));
    tokio::time::timeout(Duration::from_secs(2), spec.until_ready(|_| ())).await.expect("the second try").unwrap();
    redis.await.unwrap();
}

#[tokio::test]
async fn a_start_that_takes_long_says_why() {
    let dir = open_folder();
    let text = "command = 'sh'\nready = { command = ['sh', '-c', 'echo no licence; exit 3'], within_ms = 5500 }";
    let spec = part(&format!("{}{text}", user())).complete().unwrap().resolve(place(dir.path())).unwrap();
    spec.prepare().unwrap();
    let told = std::sync::Mutex::new(Vec::new());
    let ended = spec.until_ready(|e| told.lock().unwrap().push(e.to_string())).await;
    assert!(ended.unwrap_err().to_string().contains("no licence"));
    let told = told.into_inner().unwrap();
    assert!(told.first().is_some_and(|why| why.contains("no licence")), "{told:?}");
}
