//! Are the ports free, and if not: who has them?

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use trine_agent::Config;

use crate::failure::{Done, Failure, chain};

use super::processes::{self, Process};

/// Checks every port of a node before anything is started. Ports that the node's own processes still have are fine.
pub(crate) fn check(config: &Config) -> Done {
    for (name, port) in config.ports.named() {
        let at = config.listen(port);
        let Err(error) = TcpListener::bind(at) else { continue };
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                let holder = holder(at);
                if let Some(holder) = &holder
                    && processes::of_node(&config.dir).iter().any(|(p, _)| p.pid == holder.pid)
                {
                    continue;
                }
                let who = holder
                    .map_or_else(|| "another program".to_owned(), |p| format!("{} (process {})", p.program(), p.pid));
                let message = format!("{at} is in use by {who}, and {} needs it as its {name} port", config.node);
                return Err(Failure::failed(message)
                    .hint(format!("end that program, or choose other ports: --set ports.{name}=N")));
            }
            io::ErrorKind::AddrNotAvailable => {
                let message = format!("{} is not an address of this machine", at.ip());
                return Err(Failure::failed(message).hint("the nodes of a local cluster need 127.0.0.1 to 127.0.0.3"));
            }
            io::ErrorKind::PermissionDenied => {
                let message = format!("this user may not listen on {at}, the {name} port");
                return Err(Failure::failed(message).hint(format!("use a port above 1023: --set ports.{name}=N")));
            }
            _ => return Err(Failure::failed(format!("can't listen on {at}: {}", chain(&error)))),
        }
    }
    Ok(())
}

/// The process that listens on an address, as far as this user may know.
fn holder(at: SocketAddr) -> Option<Process> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|t| fs::read_to_string(t).unwrap_or_default());
    let sockets: BTreeSet<String> = tables.iter().flat_map(|t| listening(t, at)).collect();
    processes::all().into_iter().find(|p| {
        let Ok(open) = fs::read_dir(format!("/proc/{}/fd", p.pid)) else { return false };
        open.flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| target.to_str().is_some_and(|t| sockets.contains(t)))
    })
}

/// The sockets of a table of /proc/net that listen on this address or on all addresses.
fn listening(table: &str, at: SocketAddr) -> Vec<String> {
    const LISTEN: &str = "0A";
    let found = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        let here = u16::from_str_radix(port, 16).ok()? == at.port() && *fields.get(3)? == LISTEN;
        let everywhere = address.bytes().all(|b| b == b'0');
        (here && (everywhere || address == hex(at.ip()))).then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
    });
    found.collect()
}

/// As /proc/net writes addresses: words of four bytes, each in the machine's order.
fn hex(ip: IpAddr) -> String {
    let bytes = match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let words = bytes.chunks_exact(4).filter_map(|w| Some(u32::from_ne_bytes(w.try_into().ok()?)));
    words.map(|w| format!("{w:08X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = holder(listener.local_addr().unwrap()).unwrap();
        assert_eq!(found.pid, std::process::id());
    }
}
