//! `trine local down`: stops everything, and makes sure of it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::args::Down;
use crate::create::cant;
use crate::failure::{Done, Failure};
use crate::print;

use super::cluster::{Cluster, Node, Record, absolute};
use super::processes::{self, Part, Process};

/// How long a killed process may take to be gone. More than this, and it hangs in the kernel.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// How long a database may outlive its agent before it is killed.
const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Stops a local cluster.
pub(crate) async fn down(args: &Down) -> Done {
    let dir = absolute(&args.dir)?;
    if let Some(record) = Record::read(&dir)?.filter(|r| !r.complete && args.wipe) {
        // Its making was interrupted: nothing has run.
        return wipe(&Cluster::of(dir, record));
    }
    let cluster = Cluster::open(&args.dir)?;
    let lock = cluster.lock()?;
    let nodes: Vec<&Node> = cluster.nodes.iter().collect();
    let killed = stop(&nodes, Duration::from_secs(args.timeout)).await?;
    if killed.is_empty() {
        print::note(format!("stopped {}", cluster.dir.display()));
    } else {
        print::note(format!("stopped {}; had to kill {}", cluster.dir.display(), killed.join(", ")));
    }
    drop(lock);
    if args.wipe { wipe(&cluster) } else { Ok(()) }
}

/// Ends every process of these nodes: agents by SIGTERM, which stop their databases; what is left after `patience`, and
/// databases that have lost their agent, by SIGKILL. Returns what had to be killed.
pub(crate) async fn stop(nodes: &[&Node], patience: Duration) -> Done<Vec<String>> {
    let give_up = Instant::now() + patience;
    let mut asked: Vec<u32> = Vec::new();
    // A guard ends a moment after its agent: a database counts as left behind only after a while.
    let mut behind_since: Option<Instant> = None;
    let mut seen: Vec<(Process, Part)> = Vec::new();
    loop {
        let found = look(nodes, &mut seen);
        if seen.is_empty() {
            nodes.iter().for_each(|n| n.forget_agent());
            end_containers(nodes)?;
            return Ok(Vec::new());
        }
        let mut agents = found.iter().filter(|(_, part)| *part == Part::Agent).peekable();
        let left_behind = agents.peek().is_none();
        for (agent, _) in agents {
            if !asked.contains(&agent.pid) && agent.signal(Signal::TERM) {
                asked.push(agent.pid);
            }
        }
        behind_since = if left_behind { behind_since.or_else(|| Some(Instant::now())) } else { None };
        if Instant::now() >= give_up || behind_since.is_some_and(|t| t.elapsed() >= LEFT_BEHIND_AFTER) {
            break;
        }
        sleep(LOOK_EVERY).await;
    }
    let mut what = Vec::new();
    for node in nodes {
        for (_, part) in processes::of_node(&node.dir) {
            let text = format!("the {part} of {}", node.name);
            if !what.contains(&text) {
                what.push(text);
            }
        }
    }
    kill(nodes).await?;
    Ok(what)
}

/// Kills every process of these nodes at once, and waits until none is left.
pub(crate) async fn kill(nodes: &[&Node]) -> Done<usize> {
    let give_up = Instant::now() + GONE_WITHIN;
    let mut killed = 0;
    let mut seen: Vec<(Process, Part)> = Vec::new();
    loop {
        let found = look(nodes, &mut seen);
        if seen.is_empty() {
            nodes.iter().for_each(|n| n.forget_agent());
            return Ok(killed + end_containers(nodes)?);
        }
        if killed == 0 {
            killed = found.len();
        }
        for (p, _) in &found {
            p.signal(Signal::KILL);
        }
        if Instant::now() >= give_up {
            let pids: Vec<String> = seen.iter().map(|(p, _)| format!("{} ({})", p.pid, p.program())).collect();
            return Err(Failure::failed(format!("these processes can't be killed: {}", pids.join(", ")))
                .hint("they belong to another user, or hang in the kernel on a broken disk"));
        }
        sleep(LOOK_EVERY / 5).await;
    }
}

/// A container's processes are no children of the node's: whoever has killed its guard has to end them, too.
fn end_containers(nodes: &[&Node]) -> Done<usize> {
    let mut count = 0;
    for node in nodes {
        count += trine_engine::volume::end_containers(&node.dir).map_err(|left| {
            Failure::failed(format!("the container of {} can't be ended: processes {left:?} are left", node.name))
                .hint("only root can end a container of the machine's daemon")
        })?;
    }
    Ok(count)
}

/// The processes of these nodes. In `seen` is each that was found before and holds its files still: one that is ending has
/// no command line any more to be found by.
fn look(nodes: &[&Node], seen: &mut Vec<(Process, Part)>) -> Vec<(Process, Part)> {
    let found: Vec<(Process, Part)> = nodes.iter().flat_map(|n| processes::of_node(&n.dir)).collect();
    seen.retain(|(p, _)| p.is_there() && found.iter().all(|(f, _)| f.pid != p.pid));
    seen.extend(found.iter().cloned());
    found
}

/// Removes what `local up` made, and the folder if nothing else is in it.
pub(crate) fn wipe(cluster: &Cluster) -> Done {
    let gone = |result: io::Result<()>, path: &Path| match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(cant("remove", path, &e)),
        _ => Ok(()),
    };
    for node in &cluster.nodes {
        // A volume that is still there is a node's data once more, and a dead one can't be removed.
        super::mounts::take_off(&node.dir)?;
        gone(fs::remove_dir_all(&node.dir), &node.dir)?;
    }
    let ca = cluster.dir.join("ca");
    gone(fs::remove_dir_all(&ca), &ca)?;
    // The record goes last: as long as anything is left, this can be called again.
    for name in ["cluster.json.new", "cluster.json"] {
        let path = cluster.dir.join(name);
        gone(fs::remove_file(&path), &path)?;
    }
    match fs::remove_dir(&cluster.dir) {
        Ok(()) => print::note(format!("removed {}", cluster.dir.display())),
        Err(_) => {
            print::note(format!("removed the cluster; {} holds other things too and stays", cluster.dir.display()))
        }
    }
    Ok(())
}
