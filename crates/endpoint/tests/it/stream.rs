//! Many bytes, in odd pieces, both ways at once.

use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trine_endpoint::{Route, Target, Wire};
use trine_protocol::Epoch;

use crate::bed::{Setup, logged_in, msg, ready, within};
use crate::mysql;

const MUCH: usize = 6 << 20;

async fn pour(mut to: impl tokio::io::AsyncWrite + Unpin, data: &[u8], seed: u64) {
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let mut left = data;
    while !left.is_empty() {
        let n = rng.random_range(1..=200_000).min(left.len());
        to.write_all(&left[..n]).await.unwrap();
        left = &left[n..];
        tokio::task::yield_now().await;
    }
}

async fn drink(mut from: impl tokio::io::AsyncRead + Unpin, len: usize, seed: u64) -> Vec<u8> {
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let mut got = vec![];
    while got.len() < len {
        let n = rng.random_range(1..=100_000).min(len - got.len());
        let at = got.len();
        got.resize(at + n, 0);
        from.read_exact(&mut got[at..]).await.unwrap();
        tokio::task::yield_now().await;
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_arrives_once_and_in_order() {
    for wire in [Wire::Raw, Wire::Postgres, Wire::MySql] {
        let bed = Setup { wire, ..Setup::default() }.run(Route::local(Epoch(1))).await;
        let db = bed.database(Target::Local).await;
        let (client, server) = match wire {
            Wire::Postgres => bed.session(&db).await,
            // What follows does not fit: it is passed on all the same.
            Wire::MySql => mysql::session(&bed, &db).await,
            Wire::Raw => (bed.connect().await, db.accept().await),
        };
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let (mut up, mut down) = (vec![], vec![]);
        while up.len() < MUCH {
            // Messages of all sizes; the last of the server's is what makes it idle.
            for (stream, kind) in [(&mut up, b'd'), (&mut down, b'D')] {
                let len = if rng.random_bool(0.9) { rng.random_range(0..300) } else { rng.random_range(0..300_000) };
                let mut body = vec![0; len];
                rng.fill(&mut body[..]);
                stream.extend(msg(kind, &body));
            }
        }
        down.extend(ready(b'I'));
        let (mut cr, mut cw) = client.0.into_split();
        let (sr, mut sw) = server.0.into_split();
        let ((), (), got_up, got_down) = within(async {
            tokio::join!(
                pour(&mut cw, &up, 2),
                pour(&mut sw, &down, 3),
                drink(sr, up.len(), 4),
                drink(&mut cr, down.len(), 5)
            )
        })
        .await;
        assert!(got_up == up && got_down == down, "{wire:?}");
        // The streams' ends are dropped, so the session ends and its bytes are counted.
        drop((cr, cw, sw));
        bed.until(|c| c.open == 0).await;
        let extra = if wire == Wire::Postgres { logged_in().len() } else { 0 };
        let s = bed.snapshot();
        assert!(s.bytes_out as usize >= down.len() + extra && s.bytes_in as usize >= up.len());
    }
}
