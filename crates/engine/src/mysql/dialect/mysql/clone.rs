//! A copy by MySQL's clone plugin.
//!
//! A database that is empty and only for this asks the primary's for its data and writes them into a folder. It reaches the
//! primary through the agents, as a receiver does.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use trine_platform::BoxStream;
use trine_protocol::NodeName;

use crate::files::remove_tree;
use crate::mysql::copy::{Offer, hear_offer};
use crate::mysql::session::{Session, USER, column, literal};
use crate::mysql::state::Mysql;
use crate::{Ask, EngineError, Neighbours, Progress};

/// The primary makes a copy for somebody else: it makes one at a time (`ER_CLONE_TOO_MANY_CONCURRENT_CLONES`).
const BUSY: &str = "3634";
/// How soon it is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// How much of a copy is passed on at once.
const PIECE: usize = 256 << 10;
/// How often is looked how far it is.
const LOOK: Duration = Duration::from_millis(250);

impl Mysql {
    /// The primary's side: leads the other's database to this one.
    pub(crate) async fn serve_clone(&self, to: &NodeName, stream: BoxStream) -> io::Result<()> {
        self.introduce(USER, &self.config.superuser_password).await.map_err(io::Error::other)?;
        let mut database = UnixStream::connect(self.paths.socket()).await?;
        let (mut from_database, mut to_database) = database.split();
        let (mut from_other, mut to_other) = tokio::io::split(stream);
        let sends = async {
            let mut piece = vec![0; PIECE];
            loop {
                let length = self.next_piece(to, from_database.read(&mut piece)).await?;
                if length == 0 {
                    return Ok(());
                }
                to_other.write_all(piece.get(..length).unwrap_or_default()).await?;
                to_other.flush().await?;
            }
        };
        tokio::select! {
            sent = sends => sent,
            asked = copy(&mut from_other, &mut to_database) => asked.map(drop),
        }
    }

    /// Makes the copy.
    pub(crate) async fn take_clone(
        &self,
        offer: &Offer,
        node: &NodeName,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        // In a folder that the database's user can write to.
        let data = self.paths.tools.join("clone.data");
        remove_tree(&data)?;
        // The database of the old copy can take the new one, too. It is no standby that can be used, but it runs.
        let by_the_old = match (self.new_session().await, self.new_session().await) {
            (Ok(session), Ok(watch)) => {
                let done = self.clone_to(&data, (session, watch), offer, node, progress).await;
                done.inspect_err(|e| tracing::info!(error = %e.chain(), "the old copy's database can't take it"))
                    .is_ok()
            }
            _ => false,
        };
        if !by_the_old {
            remove_tree(&data)?;
            if let Err(e) = self.clone_by_another(&data, offer, node, progress).await {
                remove_tree(&data)?;
                return Err(e);
            }
        }
        let fresh = &self.paths.fresh;
        fs::rename(&data, fresh).map_err(EngineError::io("move the new copy to", fresh))
    }

    /// By a database that is only for this, and has nothing in it.
    async fn clone_by_another(
        &self,
        data: &Path,
        offer: &Offer,
        node: &NodeName,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let scratch = self.paths.tools.join("clone");
        remove_tree(&scratch)?;
        self.account.make_dir(&scratch)?;
        self.mysql_installs(&scratch).await?;
        let mut server = self.private_run(&scratch, &["--plugin-load-add=mysql_clone.so"])?;
        let done = async {
            let sessions = (self.private_session(&mut server).await?, self.private_session(&mut server).await?);
            self.clone_to(data, sessions, offer, node, progress).await
        };
        let done = done.await;
        // There is nothing in it that has to be kept.
        let _ = server.kill().await;
        remove_tree(&scratch)?;
        done
    }

    /// One session has the copy made, the other looks how far it is.
    async fn clone_to(
        &self,
        data: &Path,
        (mut session, mut watch): (Session, Session),
        offer: &Offer,
        node: &NodeName,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let copied = self.clone_through(node, &mut session, data);
        tokio::pin!(copied);
        loop {
            tokio::select! {
                done = &mut copied => return done,
                () = sleep(LOOK) => tell(&mut watch, offer, progress).await,
            }
        }
    }

    async fn clone_through(&self, node: &NodeName, session: &mut Session, data: &Path) -> Result<(), EngineError> {
        let broke = |source| EngineError::Neighbour { action: "copy the data of", node: node.clone(), source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(broke)?;
        let port = listener.local_addr().map_err(broke)?.port();
        let door = let_through(listener, self.neighbours()?, node.clone());
        let copied = async {
            const ACTION: &str = "copy the primary's data";
            session.run(ACTION, &format!("set global clone_valid_donor_list = '127.0.0.1:{port}'")).await?;
            let clone = format!(
                "clone instance from {USER}@'127.0.0.1':{port} identified by {} data directory = {} require no ssl",
                literal(&self.config.superuser_password),
                literal(&data.display().to_string())
            );
            loop {
                match session.run(ACTION, &clone).await {
                    Err(EngineError::MySql { source: mysql_async::Error::Server(e), .. })
                        if e.message.contains(BUSY) =>
                    {
                        sleep(AGAIN).await;
                    }
                    other => return other,
                }
            }
        };
        tokio::select! {
            done = copied => done,
            never = door => match never {},
        }
    }
}

/// Leads each of its connections to the primary's database.
async fn let_through(
    listener: TcpListener,
    neighbours: Arc<dyn Neighbours>,
    node: NodeName,
) -> std::convert::Infallible {
    let mut open = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((database, _)) => {
                let (neighbours, node) = (Arc::clone(&neighbours), node.clone());
                open.spawn(async move {
                    if let Err(error) = pass(database, neighbours, &node).await {
                        tracing::debug!(%node, %error, "the copy's connection has ended");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "the copy's connection can't be let through");
                sleep(LOOK).await;
            }
        }
        while open.try_join_next().is_some() {}
    }
}

async fn pass(mut database: TcpStream, neighbours: Arc<dyn Neighbours>, node: &NodeName) -> io::Result<()> {
    database.set_nodelay(true)?;
    let mut stream = neighbours.open(node, Ask::Copy).await?;
    hear_offer(&mut stream).await?;
    copy_bidirectional(&mut database, &mut stream).await.map(drop)
}

async fn tell(session: &mut Session, offer: &Offer, progress: &watch::Sender<Progress>) {
    let asked = "select cast(sum(data) as unsigned) from performance_schema.clone_progress";
    let row = session.row("say how far the copy is", asked).await;
    let done = row.ok().flatten().and_then(|r| column::<u64>(&r, 0)).unwrap_or(0);
    progress.send_replace(Progress { phase: "copying".into(), done, total: Some(offer.bytes.max(done)) });
}
