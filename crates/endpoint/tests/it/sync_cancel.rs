//! A commit whose wait for the standbys was cancelled.

use trine_endpoint::{Route, Target};
use trine_protocol::Epoch;

use crate::bed::{Setup, complete, fatal, msg, query, ready, show};

#[tokio::test]
async fn it_is_never_passed_on_as_done_however_the_reads_fall() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let notice = b"SWARNING\0VWARNING\0C01000\0Mcanceling wait for synchronous replication due to user request\0\
        DThe transaction has already committed locally, but might not have been replicated to the standby.\0\
        Fsyncrep.c\0L281\0RSyncRepWaitForLSN\0\0";
    let warned = [msg(b'D', b"row"), msg(b'N', notice)].concat();
    let all = [warned.clone(), complete("INSERT 0 1"), ready(b'I')].concat();
    for cut in 0..=warned.len() {
        let (mut client, mut server) = bed.session(&db).await;
        client.send(&query("insert")).await;
        server.expect(&query("insert")).await;
        server.send(&all[..cut]).await;
        // The endpoint has read and passed on this much, so the rest is another read.
        client.expect(&all[..cut]).await;
        if cut < warned.len() {
            server.send(&all[cut..]).await;
        }
        let rest = client.rest().await;
        let (more, last) = rest.split_at(warned.len() - cut);
        assert_eq!(show(more), show(&warned[cut..]), "{cut}");
        let text = fatal(last, "08007");
        assert!(text.contains("the wait for the standbys was cancelled"), "{text}");
        server.expect_gone().await;
    }
    assert_eq!(bed.snapshot().ended_by_sync_cancel, warned.len() as u64 + 1);
}
