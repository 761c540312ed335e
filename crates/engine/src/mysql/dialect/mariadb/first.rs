//! The first copy.

use std::path::Path;

use crate::EngineError;
use crate::mysql::state::Mysql;
use crate::tool::Tool;

impl Mysql {
    pub(crate) async fn mariadb_installs(&self, data: &Path) -> Result<(), EngineError> {
        const TOOL: &str = "mariadb-install-db";
        let tool = Tool { program: self.binaries.tool(TOOL), account: &self.account, place: &self.paths.tools };
        let args = [
            "--no-defaults".to_owned(),
            format!("--datadir={}", data.display()),
            "--skip-test-db".into(),
            "--skip-name-resolve".into(),
            "--auth-root-authentication-method=normal".into(),
        ];
        let said = tool.run(&args, |_| {}).await?;
        self.check_tool(TOOL, &said)
    }
}
