//! Which cluster a command is about, and a client for it.

use std::fs;

use trine_agent::{Config, Secrets};
use trine_api::{Client, api_url};

use crate::args::Target;
use crate::create::cant;
use crate::failure::{Done, Failure};
use crate::local::{Cluster, token_of};

/// The variable that may hold the token.
const TOKEN: &str = "TRINE_TOKEN";

/// A cluster to talk to.
pub(crate) struct Connected {
    pub(crate) client: Client,
    /// Set when it is one on this machine.
    pub(crate) local: Option<Cluster>,
}

/// The cluster that the arguments name.
pub(crate) fn to(target: &Target) -> Done<Connected> {
    if let Some(dir) = &target.dir {
        let cluster = Cluster::open(dir)?;
        return Ok(Connected { client: local(&cluster)?, local: Some(cluster) });
    }
    if target.api.is_empty() {
        return Err(Failure::wrong_use("which cluster?")
            .hint("use --dir DIR for a local one, or --api URL --token-file FILE for a real one"));
    }
    let token = match &target.token_file {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|e| cant("read", path, &e))?;
            // A node's secrets.toml will do as well as a file with nothing but the token.
            let token =
                if text.contains("api_token") { Secrets::load(path)?.api_token } else { text.trim().to_owned() };
            Some(token)
        }
        None => std::env::var(TOKEN).ok().filter(|t| !t.is_empty()),
    };
    if token.as_ref().is_some_and(|t| t.is_empty() || !t.chars().all(|c| c.is_ascii_graphic())) {
        let place = target.token_file.as_ref().map_or_else(|| TOKEN.to_owned(), |p| p.display().to_string());
        return Err(
            Failure::wrong_use(format!("{place} holds no token")).hint("use the api_token of a node's secrets.toml")
        );
    }
    let client = Client::new(&target.api, token, target.ca.as_deref())?;
    Ok(Connected { client, local: None })
}

/// A client of a local cluster. Without the right to read its secrets it can still show what is open.
pub(crate) fn local(cluster: &Cluster) -> Done<Client> {
    let mut urls = Vec::new();
    let mut ca = None;
    for node in &cluster.nodes {
        let config = node.config()?;
        urls.push(api_of(&config));
        ca = ca.or_else(|| Some(config.ca_cert()));
    }
    let token = cluster.nodes.iter().find_map(|n| token_of(n).ok());
    Ok(Client::new(&urls, token, ca.as_deref())?)
}

/// The address of a node's API.
pub(crate) fn api_of(config: &Config) -> String {
    api_url(config.listen(config.ports.api))
}
