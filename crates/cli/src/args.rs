//! What can be typed.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use trine_protocol::NodeName;

/// A group of three: a highly available database of three machines in three zones.
#[derive(Debug, Parser)]
#[command(name = "trine", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong use, 3 refused for safety.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A cluster of three nodes on this machine
    #[command(subcommand)]
    Local(Local),
    /// Make the folders of a real cluster's nodes: configuration, certificates, secrets
    Init(Init),
    /// Run this machine's node
    Agent(Agent),
    /// Be the parent of a database (started by the agent)
    #[command(hide = true)]
    Guard {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Take an existing data directory as the new cluster's first copy, before its first start
    Adopt(Adopt),
    /// Show the cluster
    Status(Status),
    /// Show what was decided, and on what evidence
    Events(Events),
    /// Look for tables, settings and accounts that replication can do little about
    #[command(long_about = DOCTOR)]
    Doctor(Doctor),
    /// Show where the database's clients connect
    Endpoints(Endpoints),
    /// Elect another primary now, without the old one's help
    Failover(Failover),
    /// Hand the primary's role on with its help: clients wait, none is refused
    Switchover(Switchover),
    /// End a database on purpose, and measure what clients notice: a standby's, with --primary the primary's too
    #[command(long_about = DRILL)]
    Drill(Drill),
    /// Stop automatic repair until it is resumed
    Pause(Pause),
    /// Go on after a pause
    Resume(Ask),
    /// Care for one node
    #[command(subcommand)]
    Node(Node),
    /// Care for a replicated volume
    #[command(subcommand)]
    Volume(Volume),
    /// Show the version
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Local {
    /// Bring one up and leave it running; an existing one is started again
    Up(Up),
    /// Stop it
    Down(Down),
    /// Start a node's agent
    StartNode(StartNode),
    /// Kill everything of a node at once, as if its machine were lost
    KillNode(LocalNode),
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The folder that holds all of it
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// The database: postgres, mariadb, mysql, or volume for any other (--set preset=redis) [default: postgres]
    #[arg(long)]
    pub(crate) engine: Option<String>,
    /// Settings to merge into each node's trine.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// One setting of trine.toml, such as timing.lease_ms=2000; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Take this data directory, cleanly shut down, as the first copy; it is moved into the cluster's folder
    #[arg(long, value_name = "DIR")]
    pub(crate) adopt: Option<PathBuf>,
    /// How long to wait until it is healthy, in seconds
    #[arg(long, default_value_t = 180, value_name = "SECONDS")]
    pub(crate) timeout: u64,
    /// Leave what was started running when it does not become healthy
    #[arg(long)]
    pub(crate) keep: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// The cluster's folder
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Remove the folder too: all of the data
    #[arg(long)]
    pub(crate) wipe: bool,
    /// How long the databases may take to stop before they are killed, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct LocalNode {
    /// Which node
    pub(crate) node: NodeName,
    /// The cluster's folder
    #[arg(long)]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct StartNode {
    #[command(flatten)]
    pub(crate) node: LocalNode,
    /// Wait until its database runs, showing the progress
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait, in seconds
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The cluster's name
    #[arg(long)]
    pub(crate) cluster: String,
    /// A node: NAME=ADDRESS,zone=ZONE[,priority=N][,voter=false]; one for each
    #[arg(long = "node", required = true, value_name = "NODE")]
    pub(crate) nodes: Vec<NodeSpec>,
    /// Where to make the nodes' folders
    #[arg(long, alias = "dir", value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Where each node's folder will be on its machine [default: the same path as here]
    #[arg(long, value_name = "PATH")]
    pub(crate) node_dir: Option<PathBuf>,
    /// The database: postgres, mariadb, mysql, or volume for any other (--set preset=redis)
    #[arg(long, default_value = "postgres")]
    pub(crate) engine: String,
    /// Settings to merge into each node's trine.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// One setting of trine.toml, such as timing.lease_ms=2000; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Leave the terminal's session (for local clusters)
    #[arg(long, hide = true)]
    pub(crate) session: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Adopt {
    /// The seed node's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The data directory, cleanly shut down
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
}

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// A local cluster's folder
    #[arg(long, conflicts_with_all = ["api", "token_file", "ca"])]
    pub(crate) dir: Option<PathBuf>,
    /// The API of a node; may be repeated
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) api: Vec<String>,
    /// A file that holds the token, or a node's secrets.toml [default: the variable TRINE_TOKEN]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The certificate of the cluster's CA, for https
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Go on showing it
    #[arg(long, short)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Go on showing new ones
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only those after this number
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub(crate) after: u64,
}

const DOCTOR: &str = "\
Look for tables, settings and accounts that replication can do little about.

Every node looks at its database, within 10 s, and changes nothing: tables without a primary key, or whose content goes with a \
node; events that do not run; settings that somebody has changed since the database was started; roles whose commits wait for \
no standby; accounts that can write to a standby; different versions of trine; disks with less than 10 % of room. Of a \
database on a volume nothing is known but the last two.

A warning: something can be lost, or will take long, when a node is lost. A note: it may be wanted as it is.

Exit 0: it has looked, whatever was found (with --json, count the findings). A node that could not be asked is a warning, too. \
Exit 1: nobody could look.";

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Endpoints {
    #[command(flatten)]
    pub(crate) target: Target,
}

/// A request to a cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct Ask {
    #[command(flatten)]
    pub(crate) target: Target,
    /// How long to wait until it is done, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Failover {
    #[command(flatten)]
    pub(crate) ask: Ask,
    /// Which node is to be the primary [default: the one whose data reaches furthest]
    #[arg(long, value_name = "NODE")]
    pub(crate) to: Option<NodeName>,
    /// Also when acknowledged commits may be lost: shows an estimate, then asks
    #[arg(long)]
    pub(crate) accept_data_loss: bool,
    /// Do not ask
    #[arg(long, requires = "accept_data_loss")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Switchover {
    #[command(flatten)]
    pub(crate) ask: Ask,
    /// Which node is to be the primary [default: the best standby]
    #[arg(long, value_name = "NODE")]
    pub(crate) to: Option<NodeName>,
}

const DRILL: &str = "\
End a database on purpose, and measure what clients notice.

Four clients write rows through the writer endpoint into a schema of the drill's own, trine_drill, which is dropped at the end. \
Meanwhile a standby's database is killed; with --primary there follow a switchover and the kill of the primary's database, \
which ends its clients' sessions. After each step the cluster must become healthy with no command given. The report says for \
each step how long no row was acknowledged (RTO), and how many acknowledged rows were lost (RPO), which must be 0.

Refused (exit 3) unless the cluster is healthy, nothing is under way, no alarm is raised, and enough standbys would be left. Exit \
1: a row was lost, a pause was longer than its aim, or the cluster did not come back. Ctrl-C ends it: the schema is dropped, \
and what was measured is shown.";

#[derive(Debug, Args)]
pub(crate) struct Drill {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Also the primary: a switchover, then its database is killed. Asks first
    #[arg(long)]
    pub(crate) primary: bool,
    /// Do not ask
    #[arg(long, requires = "primary")]
    pub(crate) yes: bool,
    /// Which standby [default: the first that counts for the sync rule]
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<NodeName>,
    /// Where and as whom to write, without TLS [default: the writer endpoint, as the role app]
    #[arg(long, value_name = "URI")]
    pub(crate) connect: Option<String>,
    /// The longest pause that is no failure [default: 2 for a standby and a switchover, 5 for a failover]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) aim: Option<f64>,
    /// How long the cluster may take to be healthy again after each step, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    pub(crate) ask: Ask,
    /// Why, for whoever wonders
    #[arg(long)]
    pub(crate) reason: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Make a node's data anew from the primary's; the old copy stays until the new one is complete
    Rebuild(OneNode),
    /// Let a node join anew under a new identity, after its state was lost or corrupted
    Replace(OneNode),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// Compare the content of all copies with each other, and repair what differs
    #[command(long_about = VERIFY)]
    Verify(Verify),
}

const VERIFY: &str = "Compare the content of all copies with each other, and repair what differs.

Every copy reads its files from its disk and hashes them, each part at the same place in the log, so writes may go on. What differs \
on one copy is written over with what the others have. If it is the primary's copy that differs, another node takes over and \
repairs it. The same is done by itself once a week (volume.verify_every_h).

Ends with 0 when all copies are equal (again); with 1 when something could not be repaired, or the comparison did not come to \
its end. Ctrl-C ends the waiting, not the comparison.";

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) target: Target,
    /// How long to wait until it is done, in seconds
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct OneNode {
    /// Which node
    pub(crate) node: NodeName,
    #[command(flatten)]
    pub(crate) target: Target,
    /// How long to wait until it is done, in seconds
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    pub(crate) timeout: u64,
}

/// A node to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeSpec {
    pub(crate) name: NodeName,
    pub(crate) address: IpAddr,
    pub(crate) zone: String,
    pub(crate) priority: Option<u32>,
    pub(crate) voter: bool,
}

impl std::str::FromStr for NodeSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').ok_or("use NAME=ADDRESS,zone=ZONE")?;
        let name = name.parse::<NodeName>().map_err(|e| e.to_string())?;
        let mut parts = rest.split(',');
        let address = parts.next().unwrap_or_default();
        let address = address.parse().map_err(|_| format!("{address:?} is no IP address"))?;
        let mut spec = Self { name, address, zone: String::new(), priority: None, voter: true };
        for part in parts {
            match part.split_once('=') {
                Some(("zone", zone)) => zone.clone_into(&mut spec.zone),
                None => part.clone_into(&mut spec.zone),
                Some(("priority", n)) => {
                    spec.priority = Some(n.parse().map_err(|_| format!("priority {n:?} is no number"))?);
                }
                Some(("voter", v)) => {
                    spec.voter = v.parse().map_err(|_| format!("voter is true or false, not {v:?}"))?;
                }
                Some((key, _)) => return Err(format!("{key:?} is unknown: use zone, priority, voter")),
            }
        }
        if spec.zone.is_empty() {
            return Err(format!("the zone is missing: use {text},zone=ZONE"));
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nodes_are_read() {
        let spec: NodeSpec = "n1=10.0.0.1,zone=a,priority=0,voter=false".parse().unwrap();
        assert_eq!(spec.zone, "a");
        assert_eq!((spec.priority, spec.voter), (Some(0), false));
        assert_eq!("n1=fd00::1,b".parse::<NodeSpec>().unwrap().zone, "b");
        for wrong in ["n1", "N1=10.0.0.1,zone=a", "n1=host,zone=a", "n1=10.0.0.1", "n1=10.0.0.1,zone=a,x=1"] {
            assert!(wrong.parse::<NodeSpec>().is_err(), "{wrong}");
        }
    }
}
