//! Who may connect: the agent, the endpoints through the unix socket, and the other nodes with their certificates.

use crate::EngineError;

/// Checks the user's lines.
pub(super) fn check(lines: &[String]) -> Result<(), EngineError> {
    for line in lines {
        let refuse = |why: &str| Err(EngineError::Config(format!("engine.hba: {line:?} can't be used: {why}")));
        if line.contains(['\n', '\r', '\0']) {
            return refuse("one line each");
        }
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.first() {
            Some(&"local") if words.len() >= 4 => {}
            Some(&"local") => return refuse("it needs a database, a user and a method: local app app scram-sha-256"),
            Some(&("host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc")) => {
                return refuse(
                    "clients come through the endpoints, which connect to the unix socket: write a local line",
                );
            }
            _ => return refuse("a line begins with local"),
        }
    }
    Ok(())
}

/// The text of `pg_hba.conf`. The first line that fits counts, so the user's can't shut the agent out.
pub(super) fn hba(lines: &[String]) -> String {
    let own = lines.iter().map(|l| format!("{}\n", l.trim())).collect::<String>();
    format!(
        "# Written by trine at every start. Your own lines: engine.hba in trine.toml.\n\
         local all trine scram-sha-256\n\
         local all trine_replication reject\n\
         {own}\
         local all all scram-sha-256\n\
         hostssl replication trine_replication all cert map=trine\n\
         hostssl postgres trine_replication all cert map=trine\n"
    )
}

/// The text of `pg_ident.conf`: every certificate of the cluster's CA is a node's.
pub(super) const IDENT: &str = "# Written by trine at every start.\ntrine /^.*$ trine_replication\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_lines() {
        check(&["local app app scram-sha-256".into(), "local  all  all  peer map=x".into()]).unwrap();
        for (line, why) in [
            ("host all all 0.0.0.0/0 md5", "unix socket"),
            ("local all", "needs a database"),
            ("include other.conf", "begins with local"),
            ("local a b trust\nhost all all all trust", "one line"),
        ] {
            assert!(check(&[line.into()]).unwrap_err().to_string().contains(why), "{line}");
        }
    }
}
