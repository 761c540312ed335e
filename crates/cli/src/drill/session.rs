//! Sessions of the drill's clients, through any of the endpoint's addresses.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, NoTls};

use crate::failure::chain;

/// An address that does not take a session by then is left for the next.
const EACH: Duration = Duration::from_millis(1500);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The URI is none.
    #[error("the connection string can't be read: {0}")]
    Uri(#[source] tokio_postgres::Error),
    /// There is no address in it.
    #[error("the connection string names no host")]
    NoHost,
    /// The database knows no such user, password or database: asking again is no use.
    #[error("the database refuses the session: {0}")]
    Rejected(String),
    /// No address took a session; the last one's words.
    #[error("no address of the writer endpoint takes a session: {0}")]
    Refused(String),
}

/// The addresses of a URI, each as a configuration of its own.
pub(super) fn hosts(uri: &str) -> Result<Vec<Config>, SessionError> {
    let all: Config = uri.parse().map_err(SessionError::Uri)?;
    let ports = all.get_ports();
    let of_each = all.get_hosts().iter().enumerate().map(|(n, host)| {
        let mut one = Config::new();
        match host {
            Host::Tcp(name) => one.host(name),
            Host::Unix(path) => one.host_path(path),
        };
        one.port(ports.get(n).or(ports.first()).copied().unwrap_or(5432));
        if let Some(user) = all.get_user() {
            one.user(user);
        }
        if let Some(name) = all.get_dbname() {
            one.dbname(name);
        }
        if let Some(password) = all.get_password() {
            one.password(password);
        }
        // A node that is cut off answers nothing at all.
        one.application_name("trine drill").connect_timeout(EACH).tcp_user_timeout(Duration::from_secs(2));
        one.keepalives_idle(Duration::from_secs(1)).keepalives_interval(Duration::from_secs(1)).keepalives_retries(2);
        one
    });
    let hosts: Vec<Config> = of_each.collect();
    if hosts.is_empty() { Err(SessionError::NoHost) } else { Ok(hosts) }
}

/// A session at the first address that takes one.
pub(super) async fn open(hosts: &[Config]) -> Result<Client, SessionError> {
    let mut last = SessionError::NoHost;
    for host in hosts {
        match timeout(EACH, host.connect(NoTls)).await {
            Ok(Ok((client, connection))) => {
                // Its end is noticed by the client that uses it.
                tokio::spawn(connection);
                return Ok(client);
            }
            Ok(Err(e)) if e.code().is_some_and(|c| c.code().starts_with("28") || c.code() == "3D000") => {
                return Err(SessionError::Rejected(chain(&e)));
            }
            Ok(Err(e)) => last = SessionError::Refused(chain(&e)),
            Err(_) => last = SessionError::Refused("it does not answer".to_owned()),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_one_configuration() {
        let all = hosts("postgresql://app:a%2Fb@10.0.0.1:6432,10.0.0.2:6433/app?target_session_attrs=any").unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[1].get_ports(), [6433]);
        assert_eq!(all[1].get_password(), Some(&b"a/b"[..]));
        assert!(matches!(hosts("postgresql://"), Err(SessionError::NoHost)));
        assert!(matches!(hosts("nonsense"), Err(SessionError::Uri(_))));
    }
}
