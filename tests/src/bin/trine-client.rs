//! A database client that a test runs inside a network namespace, and that prints JSON.
//!
//! `write`: inserts until its standard input is closed; a line of progress every 50 ms, the report at the end.
//! `select`: one statement, its rows as arrays of text.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use tokio_postgres::SimpleQueryMessage;
use trine_tests::mariadb;
use trine_tests::writer::{self, Live, WriterOptions};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Inserts until its standard input is closed.
    Write {
        /// The options as JSON.
        options: String,
    },
    /// Runs one statement, and prints its rows.
    Select {
        /// Where.
        #[arg(long)]
        dsn: String,
        /// Gives up after this many milliseconds.
        #[arg(long, default_value_t = 10_000)]
        timeout_ms: u64,
        /// The statement.
        sql: String,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Write { options } => write(serde_json::from_str(&options).context("the options")?).await,
        Command::Select { dsn, timeout_ms, sql } => {
            let rows = tokio::time::timeout(Duration::from_millis(timeout_ms), select(&dsn, &sql)).await;
            println!("{}", serde_json::to_string(&rows.context("no answer in time")??)?);
            Ok(())
        }
    }
}

async fn write(options: WriterOptions) -> Result<()> {
    if options.reconnect {
        writer::prepare(&options, Duration::from_secs(30)).await?;
    }
    let live = Arc::new(Live::default());
    let on_close = Arc::clone(&live);
    std::thread::spawn(move || {
        // Also when the test dies: then the pipe closes, and nothing of it stays.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        on_close.stop();
    });
    let progress = Arc::clone(&live);
    let printer = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            if let Ok(line) = serde_json::to_string(&progress.progress()) {
                println!("{line}");
            }
        }
    });
    let report = writer::run(options, Arc::clone(&live)).await;
    printer.abort();
    let _ = printer.await;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&live.progress())?)?;
    writeln!(out, "{}", serde_json::to_string(&report)?)?;
    Ok(())
}

async fn select(dsn: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    if mariadb::is_mariadb(dsn) {
        let mut conn = mariadb::connect(dsn, Duration::from_secs(60)).await?;
        return mariadb::text_rows(&mut conn, sql).await;
    }
    let (client, _) = writer::connect(dsn, Duration::from_secs(60)).await?;
    let mut rows = Vec::new();
    for message in client.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
        }
    }
    Ok(rows)
}
