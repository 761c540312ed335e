//! `trine events`: what was decided, and on what evidence. `trine endpoints`: where clients connect.

use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;
use trine_api::{Client, EventView};

use crate::args;
use crate::connect;
use crate::failure::Done;
use crate::print::{self, Paint};

/// How soon another node is asked when one does not answer.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// `trine events`.
pub(crate) async fn events(args: &args::Events) -> Done {
    let client = connect::to(&args.target)?.client;
    if args.follow {
        return tokio::select! {
            done = follow(&client, args) => done,
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
    }
    let mut all = Vec::new();
    let mut after = args.after;
    loop {
        let page = client.events(after, false).await?;
        let Some(last) = page.last() else { break };
        after = last.number;
        all.extend(page);
    }
    if args.target.json {
        print::json(&serde_json::json!({ "events": all }));
    } else {
        let text: String = all.iter().map(|e| describe(e, Paint::stdout())).collect();
        print::out(&text);
    }
    Ok(())
}

/// Goes on for ever. A node that does not answer is no end: another one will.
async fn follow(client: &Client, args: &args::Events) -> Done {
    let mut after = args.after;
    // The first answer must come: a wrong address or token would otherwise be waited for in vain.
    let mut page = client.events(after, false).await?;
    loop {
        for e in &page {
            after = after.max(e.number);
            if args.target.json {
                print::json(e);
            } else {
                print::out(&describe(e, Paint::stdout()));
            }
        }
        page = match client.events(after, true).await {
            Ok(page) => page,
            Err(_) => {
                sleep(RETRY_AFTER).await;
                Vec::new()
            }
        };
    }
}

fn describe(e: &EventView, paint: Paint) -> String {
    let node = e.node.as_ref().map_or("-", |n| n.as_str());
    let head = format!("{:>4}  {}  epoch {}  {node}", e.number, local_time(&e.time), e.epoch);
    let mut text = format!("{}  {}\n", paint.faint(&head), paint.strong(&e.kind));
    for line in print::wrap(&e.text, 74, 0) {
        text.push_str(&format!("      {line}\n"));
    }
    match &e.evidence {
        Value::Object(fields) => {
            for (key, value) in fields {
                for line in print::wrap(&format!("{key}: {}", plain(value)), 72, 4) {
                    text.push_str(&format!("        {}\n", paint.faint(&line)));
                }
            }
        }
        Value::Null => {}
        other => text.push_str(&format!("        {}\n", paint.faint(&plain(other)))),
    }
    text
}

/// In the reader's own time zone, to the millisecond.
fn local_time(rfc3339: &str) -> String {
    match rfc3339.parse::<jiff::Timestamp>() {
        Ok(t) => t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        Err(_) => rfc3339.to_owned(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// `trine endpoints`.
pub(crate) async fn endpoints(args: &args::Endpoints) -> Done {
    let client = connect::to(&args.target)?.client;
    let uris = client.uris().await?;
    if args.target.json {
        print::json(&uris);
    } else {
        for (name, first, all) in [("writer", &uris.writer, &uris.writers), ("reader", &uris.reader, &uris.readers)] {
            print::line(format!("{name}  {first}"));
            // One for each node, where a URI can't name several: any of them will do.
            all.iter().skip(1).for_each(|uri| print::line(format!("        {uri}")));
        }
    }
    Ok(())
}
