//! Who asks the registry.

use std::process::Stdio;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::ContainerError;
use crate::volume::run::end;
use crate::volume::table::Registry;

/// A helper may have to ask a cloud.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// What the daemon tells the registry of `image`.
pub(super) async fn credentials(registry: &Registry, image: &str) -> Result<DockerCredentials, ContainerError> {
    let server = server(image);
    match registry {
        Registry::Password { username, file } => {
            let text = tokio::fs::read_to_string(file).await;
            let text = text.map_err(|source| ContainerError::File { action: "read", path: file.clone(), source })?;
            let (username, password) = (Some(username.clone()), Some(text.trim().to_owned()));
            Ok(DockerCredentials { username, password, serveraddress: Some(server), ..DockerCredentials::default() })
        }
        Registry::Helper(name) => {
            let program = format!("docker-credential-{name}");
            let failed =
                |why: String| ContainerError::Credentials { why: format!("{program} get, for {server}: {why}") };
            let answer = ask(&program, &server).await.map_err(failed)?;
            // A helper says by this name that the secret is a token for the registry's own service of identities.
            let token = answer.username == "<token>";
            let mut all = DockerCredentials { serveraddress: Some(server.clone()), ..DockerCredentials::default() };
            if token {
                all.identitytoken = Some(answer.secret);
            } else {
                (all.username, all.password) = (Some(answer.username), Some(answer.secret));
            }
            Ok(all)
        }
    }
}

async fn ask(program: &str, server: &str) -> Result<Answer, String> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child =
        command.spawn().map_err(|e| format!("it can't be run: {e}; install it where the agent's PATH leads"))?;
    let work = async {
        if let Some(mut stdin) = child.stdin.take() {
            // One that has ended already says why.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(PATIENCE, work).await.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
    let output = output.map_err(|e| e.to_string())?;
    if !output.status.success() {
        // Helpers say what is wrong on their output; a secret is there only when all went well.
        let said = [output.stdout, output.stderr].concat();
        return Err(format!("{}: {}", output.status, end(&String::from_utf8_lossy(&said))));
    }
    serde_json::from_slice(&output.stdout).map_err(|_| "its answer is not what a credential helper's is".to_owned())
}

/// The registry that an image's name leads to.
fn server(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host.to_owned(),
        _ => "https://index.docker.io/v1/".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_name_leads_to_its_registry() {
        assert_eq!(server("1.dkr.ecr.eu-west-1.amazonaws.com/team/db:1"), "1.dkr.ecr.eu-west-1.amazonaws.com");
        assert_eq!(server("localhost:5000/db"), "localhost:5000");
        assert_eq!(server("redis:7"), "https://index.docker.io/v1/");
        assert_eq!(server("team/redis:7"), "https://index.docker.io/v1/");
    }

    #[tokio::test]
    async fn a_helper_is_asked_and_its_refusal_shown() {
        let dir = tempfile::tempdir().unwrap();
        let helper = |text: &str| {
            let path = dir.path().join("helper");
            std::fs::write(&path, format!("#!/bin/sh\nread server\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            path.display().to_string()
        };
        let good = helper("echo '{\"ServerURL\":\"'$server'\",\"Username\":\"AWS\",\"Secret\":\"s\"}'");
        let answer = ask(&good, "example.org\n").await.unwrap();
        assert_eq!((answer.username.as_str(), answer.secret.as_str()), ("AWS", "s"));
        let e = ask(&helper("echo no credentials; exit 1"), "example.org\n").await.err().unwrap();
        assert!(e.contains("no credentials"), "{e}");
        let e = ask(&helper("echo hm"), "example.org\n").await.err().unwrap();
        assert!(e.contains("not what"), "{e}");
        let e = ask("/no/such/helper", "example.org\n").await.err().unwrap();
        assert!(e.contains("can't be run"), "{e}");
    }
}
