//! The first copy.

use std::path::Path;

use crate::EngineError;
use crate::mysql::state::Mysql;
use crate::tool::Tool;

impl Mysql {
    pub(crate) async fn mysql_installs(&self, data: &Path) -> Result<(), EngineError> {
        let tool = Tool { program: self.binaries.server(), account: &self.account, place: &self.paths.tools };
        let args = [
            "--no-defaults".to_owned(),
            "--initialize-insecure".into(),
            format!("--datadir={}", data.display()),
            "--auto-generate-certs=OFF".into(),
            "--secure-file-priv=NULL".into(),
        ];
        let said = tool.run(&args, |_| {}).await?;
        self.check_tool("mysqld --initialize-insecure", &said)
    }
}
