//! Copies are compared; what differs is found, and made equal by what most of them have.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use trine_protocol::{Epoch, SyncSetting};
use trine_volume::{Findings, Found, Ino, Region, Store as _, Verdict, Volume};

use crate::node::{Link, Node, PATIENCE, any};

const MIB: u64 = 1 << 20;

struct Three {
    a: Node,
    b: Node,
    c: Node,
    ab: Link,
    ac: Link,
    file: Ino,
}

/// A file of 3 MiB on three nodes, of which the first writes the log.
async fn three() -> Three {
    let (a, b, c) = (Node::new("a"), Node::new("b"), Node::new("c"));
    a.volume.lead(Epoch(2)).unwrap();
    a.volume.set_sync(&any(2, &[&b, &c]));
    let (ab, ac) = (b.follow(&a, Epoch(2)), c.follow(&a, Epoch(2)));
    let file = a.make("file").unwrap();
    for i in 0..3 {
        a.write(file, i * MIB, &vec![u8::try_from(i).unwrap() + 1; 1 << 20]).unwrap();
    }
    a.sync().await.unwrap();
    Three { a, b, c, ab, ac, file }
}

async fn compare(volume: &Volume, region: Region) -> Findings {
    ask(volume, region).await.1
}

async fn ask(volume: &Volume, region: Region) -> (u64, Findings) {
    let (tell, told) = oneshot::channel();
    volume
        .verify(
            region,
            Box::new(|lsn, findings| {
                let _ = tell.send((lsn, findings));
            }),
        )
        .unwrap();
    timeout(PATIENCE, told).await.expect("not all have answered").unwrap()
}

fn part(file: Ino, number: u64) -> Region {
    Region::Content { ino: file, offset: number * MIB, len: MIB }
}

/// One bit of what the node has on its disk, of the second MiB.
fn flip(node: &Node, file: Ino) {
    let path = node.folder.path().join(format!("objects/{:012x}", file.0));
    let disk = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    disk.read_exact_at(&mut byte, MIB + 4711).unwrap();
    disk.write_all_at(&[byte[0] ^ 16], MIB + 4711).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_differs_is_found_and_repaired() {
    let t = three().await;
    // Everything is applied by the time that this is answered.
    for region in [Region::Tree, part(t.file, 0), part(t.file, 1), part(t.file, 2), part(Ino(99), 0)] {
        let findings = compare(&t.a.volume, region).await;
        assert_eq!((findings.verdict(), findings.compared()), (Verdict::Equal, 3), "{region:?}: {findings:?}");
    }
    let before = t.a.volume.look(|tree| tree.clone());
    flip(&t.c, t.file);
    assert_eq!(compare(&t.a.volume, part(t.file, 2)).await.verdict(), Verdict::Equal);
    let (lsn, findings) = ask(&t.a.volume, part(t.file, 1)).await;
    let odd = [t.c.name.clone()].into();
    assert_eq!(findings.verdict(), Verdict::Odd { own: false, others: odd }, "{findings:?}");
    assert!(t.a.volume.repair(lsn, findings.right().unwrap()).unwrap());
    assert!(!t.a.volume.repair(lsn, findings.right().unwrap()).unwrap(), "once is enough");
    assert_eq!(compare(&t.a.volume, part(t.file, 1)).await.verdict(), Verdict::Equal);
    assert_eq!(t.c.objects(), t.a.objects());
    assert_eq!(t.a.volume.look(|tree| tree.clone()), before, "a repair shows in the files' attributes");
    t.ab.cut().await;
    t.ac.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_changed_meanwhile_is_not_written_over() {
    let t = three().await;
    compare(&t.a.volume, part(t.file, 1)).await;
    let differs = async || {
        let (lsn, findings) = ask(&t.a.volume, part(t.file, 1)).await;
        (lsn, findings.right().unwrap())
    };
    flip(&t.c, t.file);
    let (lsn, right) = differs().await;
    t.a.write(t.file, MIB + 5, b"new").unwrap();
    assert!(!t.a.volume.repair(lsn, right).unwrap(), "an old content is written over a new one");
    // Beside it anything may change.
    let (lsn, right) = differs().await;
    t.a.write(t.file, 2 * MIB, b"new").unwrap();
    assert!(t.a.volume.repair(lsn, right).unwrap());
    assert_eq!(compare(&t.a.volume, part(t.file, 1)).await.verdict(), Verdict::Equal);
    assert_eq!(&t.a.read(t.file, 3 << 20)[(1 << 20) + 5..][..3], b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_differs_finds_out_and_spreads_nothing() {
    let t = three().await;
    compare(&t.a.volume, part(t.file, 1)).await;
    flip(&t.a, t.file);
    let (lsn, findings) = ask(&t.a.volume, part(t.file, 1)).await;
    assert_eq!(findings.verdict(), Verdict::Odd { own: true, others: [].into() }, "{findings:?}");
    assert!(!t.a.volume.repair(lsn, findings.right().unwrap()).unwrap(), "it has nothing to repair with");
    // Another one leads, and has it.
    let end = t.a.volume.log_end().lsn;
    t.ab.cut().await;
    t.ac.cut().await;
    t.b.until(|p| p.end == end).await;
    // With a checkpoint: else the log is applied once more, and the damage with it is gone.
    t.a.volume.finish();
    let a = t.a.restart();
    t.b.volume.lead(Epoch(3)).unwrap();
    t.b.volume.set_sync(&any(1, &[&a, &t.c]));
    let (ba, bc) = (a.follow(&t.b, Epoch(3)), t.c.follow(&t.b, Epoch(3)));
    a.until(|p| p.end > end).await;
    t.c.until(|p| p.end > end).await;
    let (lsn, findings) = ask(&t.b.volume, part(t.file, 1)).await;
    let odd = [a.name.clone()].into();
    assert_eq!(findings.verdict(), Verdict::Odd { own: false, others: odd }, "{findings:?}");
    assert!(t.b.volume.repair(lsn, findings.right().unwrap()).unwrap());
    assert_eq!(compare(&t.b.volume, part(t.file, 1)).await.verdict(), Verdict::Equal);
    ba.cut().await;
    bc.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_left_is_not_waited_for() {
    let t = three().await;
    t.ac.cut().await;
    t.a.volume.set_sync(&any(1, &[&t.b]));
    let findings = compare(&t.a.volume, part(t.file, 1)).await;
    assert!(findings.others.contains_key(&t.b.name), "{findings:?}");
    flip(&t.b, t.file);
    assert_eq!(compare(&t.a.volume, part(t.file, 1)).await.verdict(), Verdict::Undecided, "one against one");
    t.ab.cut().await;
    t.a.volume.set_sync(&SyncSetting::Alone);
    assert_eq!(compare(&t.a.volume, part(t.file, 1)).await.compared(), 1);
    let (tell, told) = oneshot::channel::<Findings>();
    t.a.volume.set_sync(&SyncSetting::Wait);
    t.a.volume.verify(part(t.file, 1), Box::new(|_, f| drop(tell.send(f)))).unwrap();
    t.a.volume.close("the test is over");
    let gone = timeout(Duration::from_secs(20), told).await.expect("who asked is not told that nobody will answer");
    assert!(gone.is_err());
}

/// What lies before the end of the log when a copy is opened may have been applied before, and what comes after it too.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_says_nothing_of_what_it_may_have_gone_beyond() {
    let t = three().await;
    t.ac.cut().await;
    // The log has a question, and c has it by the time that it is restarted; then it applies it again.
    t.a.volume.set_sync(&any(1, &[&t.b]));
    let first = compare(&t.a.volume, part(t.file, 1)).await;
    assert_eq!(first.verdict(), Verdict::Equal);
    t.a.write(t.file, MIB, &[9; 100]).unwrap();
    t.a.sync().await.unwrap();
    let end = t.a.volume.log_end().lsn;
    t.ab.cut().await;
    t.b.until(|p| p.durable == end).await;
    let b = t.b.restart();
    let ab = b.follow(&t.a, Epoch(2));
    b.until(|p| p.applied == end).await;
    let findings = compare(&t.a.volume, part(t.file, 1)).await;
    assert!(matches!(findings.others.get(&b.name), Some(Found::Hash(_))), "{findings:?}");
    assert_eq!(findings.verdict(), Verdict::Equal);
    ab.cut().await;
}
