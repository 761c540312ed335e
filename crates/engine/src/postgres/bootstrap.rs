//! The first copy of a cluster.

use super::Postgres;
use super::binaries::data_major;
use super::control::Control;
use super::paths::{remove_tree, sync_all, sync_dir};
use super::setup::Private;
use crate::tool::Tool;
use crate::{CopyId, EngineError};

impl Postgres {
    pub(super) async fn make_first(&self) -> Result<CopyId, EngineError> {
        let _turn = self.turn.lock().await;
        if data_major(&self.paths.data).is_none() {
            remove_tree(&self.paths.fresh)?;
            if let Err(e) = self.make_fresh().await {
                // What is left is useless, and may be what fills the disk.
                let _ = remove_tree(&self.paths.fresh);
                return Err(e);
            }
            std::fs::rename(&self.paths.fresh, &self.paths.data)
                .map_err(EngineError::io("put in place", &self.paths.data))?;
            sync_dir(&self.paths.dir)?;
        }
        Ok(self.control().await?.identity)
    }

    async fn make_fresh(&self) -> Result<(), EngineError> {
        let data = &self.paths.fresh;
        let binaries = self.newest_binaries()?;
        self.account.make_dir(data)?;
        let tool = Tool { program: binaries.program("initdb"), account: &self.account, place: &self.paths.tools };
        let mut args: Vec<String> =
            ["--username=trine", "--encoding=UTF8", "--data-checksums", "--no-sync"].map(str::to_owned).to_vec();
        args.extend(["--auth=scram-sha-256".into(), format!("--locale={}", utf8_locale().await)]);
        let password = self.paths.sockets.join("initdb");
        self.account.write(&password, format!("{}\n", self.config.superuser_password).as_bytes())?;
        args.extend([format!("--pwfile={}", password.display()), format!("--pgdata={}", data.display())]);
        let said = tool.run(&args, |_| {}).await;
        super::paths::remove_file(&password)?;
        self.check_tool("initdb", &said?)?;
        let place = self.paths.private();
        let private = Private { binaries: &binaries, account: &self.account, data, place, settings: &[] };
        private.set_up(&self.config.superuser_password, &self.config.app_password).await?;
        remove_tree(&private.place)?;
        sync_all(data).await?;
        let control = Control::read(&binaries, &self.account, data).await?;
        if control.is_shut_down() {
            Ok(())
        } else {
            Err(EngineError::Tool { tool: "initdb", output: format!("left the new copy {}", control.state) })
        }
    }
}

/// `C.UTF-8`, or the nearest that this machine has.
async fn utf8_locale() -> String {
    let output = tokio::process::Command::new("locale").arg("-a").output().await;
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().map(str::trim).collect();
    let plain = |l: &str| l.to_ascii_lowercase().replace('-', "");
    let find = |wanted: &str| all.iter().find(|l| plain(l) == wanted).map(|l| (*l).to_owned());
    // Without any, the plain C locale: it sorts by bytes and can hold UTF-8 all the same.
    find("c.utf8").or_else(|| find("en_us.utf8")).unwrap_or_else(|| "C".into())
}
