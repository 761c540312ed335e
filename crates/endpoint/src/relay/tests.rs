use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;
use tokio::task::yield_now;

use super::*;
use crate::counters::Busy;

/// News that may be announced twice, as a `watch` channel does when its value is seen before its waiters are told.
#[derive(Clone, Default)]
struct News(Arc<Inner>);

#[derive(Default)]
struct Inner {
    bell: Notify,
    is_over: AtomicBool,
    asked: AtomicUsize,
}

impl News {
    /// Wakes the relay, and returns once it has looked around.
    async fn ring(&self) {
        let before = self.0.asked.load(SeqCst);
        self.0.bell.notify_waiters();
        while self.0.asked.load(SeqCst) == before {
            yield_now().await;
        }
    }
}

impl Warden for News {
    fn disturbed(&self) -> bool {
        self.0.asked.fetch_add(1, SeqCst);
        self.0.is_over.load(SeqCst)
    }

    fn permitted(&self) -> bool {
        true
    }

    fn alarm(&self) -> impl Future<Output = ()> + Send + 'static {
        let news = self.0.clone();
        async move {
            loop {
                let bell = news.bell.notified();
                if news.is_over.load(SeqCst) {
                    return;
                }
                bell.await;
            }
        }
    }

    fn look(&mut self) -> Look {
        if self.0.is_over.load(SeqCst) { Look::End(Ended::RouteChanged) } else { Look::Keep { drain: false } }
    }
}

/// A session slept through a switchover's end: the note before it had been seen first and announced afterwards, and the
/// late announcement used the alarm up.
#[tokio::test]
async fn an_alarm_for_nothing_does_not_silence_the_next_one() {
    let (client, _client) = tokio::io::duplex(64);
    let (backend, _backend) = tokio::io::duplex(64);
    let news = News::default();
    let mut watching = news.clone();
    let session = tokio::spawn(async move {
        let mut client = Conn::Boxed(Box::new(client));
        let backend = Conn::Boxed(Box::new(backend));
        let (busy, counters) = (Busy::default().mark(), Counters::default());
        let mut relay = Relay::new(&mut client, backend, Vec::new(), None, Duration::from_secs(1), busy, &counters);
        relay.run(&mut watching).await
    });
    while news.0.asked.load(SeqCst) == 0 {
        yield_now().await;
    }
    news.ring().await;
    news.0.is_over.store(true, SeqCst);
    news.0.bell.notify_waiters();
    let ended = tokio::time::timeout(Duration::from_secs(20), session).await;
    assert_eq!(ended.expect("in time").unwrap(), Ended::RouteChanged);
}
