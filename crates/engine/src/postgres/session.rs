//! The agent's own connections to the database, over its unix socket.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use crate::EngineError;

/// A connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    notices: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whatever the user or a database or role is set to: the agent's statements take as long as they take, and its commits
/// obey the sync rule.
const OPTIONS: &str = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
    -c synchronous_commit=on -c default_transaction_read_only=off -c client_min_messages=warning \
    -c search_path=pg_catalog -c default_transaction_isolation=read\\ committed -c row_security=on";

/// How long a connection may take. A database that does not let the agent in by then does not answer.
const CONNECT: Duration = Duration::from_secs(5);

impl Session {
    /// Connects as the agent.
    pub(super) async fn open(sockets: &Path, port: u16, password: &str, database: &str) -> Result<Self, EngineError> {
        let mut config = Config::new();
        config.host_path(sockets).port(port).user("trine").password(password).dbname(database);
        config.application_name("trine_agent").options(OPTIONS);
        let connect = timeout(CONNECT, config.connect(NoTls)).await;
        let (client, mut connection) = connect
            .map_err(|_| EngineError::Timeout("let the agent in"))?
            .map_err(EngineError::sql("let the agent in"))?;
        let notices = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&notices);
        let task = tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(n) = message {
                    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                    if heard.len() < 100 {
                        heard.push(n.message().to_owned());
                    }
                }
            }
        });
        Ok(Self { client, notices, task })
    }

    /// What it has warned of so far.
    pub(super) fn notices(&self) -> Vec<String> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs statements without parameters.
    pub(super) async fn run(&self, action: &'static str, statements: &str) -> Result<(), EngineError> {
        self.client.batch_execute(statements).await.map_err(EngineError::sql(action))
    }
}

/// A string as an SQL literal.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
