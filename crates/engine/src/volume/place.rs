//! What the placeholders of a description stand for on a node.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::template::Placeholder;

/// What the placeholders stand for on a node.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    /// `{data}`
    pub data: PathBuf,
    /// `{dir}`
    pub dir: PathBuf,
    /// `{run}`
    pub run: PathBuf,
    /// `{log}`
    pub log: PathBuf,
    /// `{address}`
    pub address: IpAddr,
    /// `{port}`
    pub port: u16,
    /// `{user}`
    pub user: String,
    /// `{password}`
    pub password: String,
    /// The cluster's and the node's name: its containers are labelled with them.
    pub names: (String, String),
}

impl Place {
    /// The usual places below a node's folder. `me` is where the node is reached: the database listens there when that
    /// is loopback, else on 127.0.0.1, since clients come through the endpoints only.
    #[must_use]
    pub fn of(dir: &Path, me: IpAddr, port: u16, password: &str) -> Self {
        // As the kernel names it, or the processes that work there would not be found.
        let dir = &fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        Self {
            data: dir.join("data"),
            dir: dir.clone(),
            run: dir.join("run/db"),
            log: dir.join("log/db"),
            address: if me.is_loopback() { me } else { Ipv4Addr::LOCALHOST.into() },
            port,
            user: "app".to_owned(),
            password: password.to_owned(),
            names: Default::default(),
        }
    }

    /// The same with the cluster's and the node's name.
    #[must_use]
    pub fn named(self, cluster: &str, node: &str) -> Self {
        Self { names: (cluster.to_owned(), node.to_owned()), ..self }
    }

    pub(super) fn value(&self, of: Placeholder) -> String {
        match of {
            Placeholder::Data => self.data.display().to_string(),
            Placeholder::Dir => self.dir.display().to_string(),
            Placeholder::Run => self.run.display().to_string(),
            Placeholder::Log => self.log.display().to_string(),
            Placeholder::Address => self.address.to_string(),
            Placeholder::Port => self.port.to_string(),
            Placeholder::User => self.user.clone(),
            Placeholder::Password => self.password.clone(),
            // Only in a URI, which is not resolved here.
            Placeholder::Host | Placeholder::Hosts => String::new(),
        }
    }
}

/// Keeps the password out of logs.
impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({}, {}:{})", self.dir.display(), self.address, self.port)
    }
}
