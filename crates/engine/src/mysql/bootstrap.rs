//! The first copy of a cluster, and who may do what in it.

use std::fs;

use super::dialect::Dialect;
use super::paths::own;
use super::session::{REPLICATION, USER, literal};
use super::state::Mysql;
use crate::files::{remove_tree, sync_all, sync_dir};
use crate::{CopyId, EngineError};

impl Mysql {
    pub(super) async fn make_first(&self) -> Result<CopyId, EngineError> {
        let _turn = self.turn.lock().await;
        if let Some(there) = self.identity()? {
            return Ok(there);
        }
        remove_tree(&self.paths.fresh)?;
        if let Err(e) = self.make_fresh().await {
            // What is left is useless, and may be what fills the disk.
            let _ = remove_tree(&self.paths.fresh);
            return Err(e);
        }
        fs::rename(&self.paths.fresh, &self.paths.data).map_err(EngineError::io("put in place", &self.paths.data))?;
        sync_dir(&self.paths.dir)?;
        Ok(self.config.identity)
    }

    async fn make_fresh(&self) -> Result<(), EngineError> {
        let data = &self.paths.fresh;
        self.account.make_dir(data)?;
        match self.config.dialect {
            Dialect::MariaDb => self.mariadb_installs(data).await?,
            Dialect::MySql => self.mysql_installs(data).await?,
        }
        let mut statements = self.first_statements(&["%"]);
        statements.extend(self.words().tidy.iter().map(|&s| s.to_owned()));
        self.in_private(data, &[""; 0], async |session| {
            for statement in &statements {
                session.run("set up the first copy", statement).await?;
            }
            Ok(())
        })
        .await?;
        self.account.write(&data.join(own::IDENTITY), format!("{}\n", self.config.identity).as_bytes())?;
        sync_all(data).await
    }

    /// What makes the users and tables that the cluster needs: every copy begins with them. The user `app` comes from `hosts`; an
    /// `app` that there is stays, and gets the password.
    pub(super) fn first_statements(&self, hosts: &[&str]) -> Vec<String> {
        let own = |name: &str| {
            let password = literal(&self.config.superuser_password);
            [
                format!("drop user if exists {name}@localhost"),
                format!("create user {name}@localhost identified by {password}"),
            ]
        };
        let mut all: Vec<String> = own(USER).into_iter().chain(own(REPLICATION)).collect();
        all.extend([
            format!("grant all on *.* to {USER}@localhost with grant option"),
            format!("grant replication slave on *.* to {REPLICATION}@localhost"),
            "create database if not exists app character set utf8mb4".into(),
        ]);
        for host in hosts {
            let (app, password) = (format!("app@{}", literal(host)), literal(&self.config.app_password));
            all.extend([
                format!("create user if not exists {app} identified by {password}"),
                format!("alter user {app} identified by {password}"),
                format!("grant all on app.* to {app}"),
                // Databases of its own, by name: a right to all of them would be one to the users' table as well.
                format!(r"grant all on `app\_%`.* to {app}"),
                format!("grant process, show databases on *.* to {app}"),
            ]);
        }
        all.extend([
            "create database trine".into(),
            // One row for each epoch: where its log left the one before.
            "create table trine.epoch (epoch bigint unsigned primary key, node varchar(255) not null, \
             server varchar(36) not null, \
             previous bigint unsigned not null, barriers bigint unsigned not null default 0, \
             at timestamp(6) not null default current_timestamp(6)) engine = InnoDB"
                .into(),
            "create table trine.nudge (id bigint unsigned primary key auto_increment) engine = InnoDB".into(),
        ]);
        all
    }
}
