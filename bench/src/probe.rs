//! One client's view, as one JSON object.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use trine_tests::WriterOptions;
use trine_tests::ledger::Summary;
use trine_tests::mariadb;
use trine_tests::redis;
use trine_tests::writer::{self, Live};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Where to write: a URI of PostgreSQL, MariaDB or Redis (of several of the last two with commas between, any will do).
    #[arg(long)]
    dsn: String,
    /// For how long.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// At most one insert of each client in this many seconds.
    #[arg(long, default_value_t = 0.01)]
    pace: f64,
    /// How long a statement may take, in seconds.
    #[arg(long, default_value_t = 2.0)]
    timeout: f64,
    /// How many at once.
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Where to look for every acknowledged row at the end. Any number of times.
    #[arg(long)]
    verify: Vec<String>,
    /// The table that is written to. Its rows are deleted first.
    #[arg(long, default_value = "probe")]
    table: String,
    /// Print it for people.
    #[arg(long)]
    human: bool,
    /// A shell command, run once.
    #[arg(long)]
    fault: Option<String>,
    /// When it is run, in seconds.
    #[arg(long, default_value_t = 5.0)]
    fault_after: f64,
}

#[tokio::main]
pub(crate) async fn run(a: Arguments) -> Result<()> {
    let milliseconds = |s: f64| u64::try_from(Duration::from_secs_f64(s.max(0.0)).as_millis()).unwrap_or(u64::MAX);
    let options = WriterOptions {
        dsn: a.dsn.clone(),
        table: a.table.clone(),
        clients: a.clients,
        pace_ms: milliseconds(a.pace),
        statement_timeout_ms: milliseconds(a.timeout),
        // A server that is gone does not time anything out.
        answer_timeout_ms: milliseconds(a.timeout * 1.5),
        ..WriterOptions::default()
    };
    let redis = redis::is_redis(&a.dsn);
    if redis {
        redis::prepare(&options, Duration::from_secs(10)).await?;
    } else if mariadb::is_mariadb(&a.dsn) {
        writer::prepare(&options, Duration::from_secs(10)).await?;
        let mut client = mariadb::connect(&a.dsn, Duration::from_secs(5)).await?;
        mariadb::text_rows(&mut client, &format!("delete from {}", a.table)).await?;
    } else {
        writer::prepare(&options, Duration::from_secs(10)).await?;
        let (client, _) = writer::connect(&a.dsn, Duration::from_secs(5)).await?;
        client.execute(&format!("delete from {}", a.table), &[]).await?;
    }

    let live = Arc::new(Live::default());
    let stop = Arc::clone(&live);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs_f64(a.seconds)).await;
        stop.stop();
    });
    if let Some(command) = a.fault {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs_f64(a.fault_after)).await;
            let run =
                tokio::process::Command::new("sh").args(["-c", &command]).stdout(std::process::Stdio::null()).status();
            match run.await {
                Ok(status) if !status.success() => eprintln!("the fault's command ended with {status}"),
                Ok(_) => {}
                Err(e) => eprintln!("the fault's command: {e}"),
            }
        });
    }
    let report = if redis { redis::run(options, live).await } else { writer::run(options, live).await };
    let mut summary = report.summary();
    let acked = report.acked_ids();
    for dsn in &a.verify {
        let mut attempts = 0;
        let have: std::collections::BTreeSet<i64> = loop {
            let ids = async {
                if redis::is_redis(dsn) {
                    let (ids, writes) = redis::written(dsn, &a.table).await?;
                    let sent = acked.len() + report.unknown.len();
                    let writes = usize::try_from(writes)?;
                    ensure!(
                        ids.len() == writes && writes <= sent,
                        "of {sent} writes {} are there, and the counter says {writes}",
                        ids.len()
                    );
                    return Ok(ids);
                }
                if mariadb::is_mariadb(dsn) {
                    let mut client = mariadb::connect(dsn, Duration::from_secs(10)).await?;
                    let numbers = format!("select number from {}", a.table);
                    return Ok(mariadb::rows::<i64>(&mut client, &numbers).await?.into_iter().collect());
                }
                let ids = format!("select id from {}", a.table);
                let (client, _) = writer::connect(dsn, Duration::from_secs(10)).await?;
                let rows = client.query(&ids, &[]).await?;
                rows.iter().map(|r| Ok(r.try_get(0)?)).collect::<Result<_>>()
            };
            match ids.await {
                Ok(ids) => break ids,
                Err(e) if attempts == 100 => return Err(e).context(format!("verifying through {dsn}")),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
            attempts += 1;
        };
        summary.lost.push(acked.difference(&have).count());
    }
    if a.human {
        tell(&summary);
    } else {
        println!("{}", serde_json::to_string(&summary)?);
    }
    Ok(())
}

/// The same in words.
fn tell(s: &Summary) {
    println!("  acknowledged      {} writes, half of them within {:.1} ms", s.acked, s.p50_ms.unwrap_or_default());
    println!("  longest pause     {:.2} s without any acknowledgement", s.longest_gap_s);
    println!("  without answer    {} (sent, and the session ended before the answer)", s.unknown);
    for lost in &s.lost {
        println!("  lost              {lost} acknowledged writes");
    }
}
