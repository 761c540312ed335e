//! What operations make of a tree.

use std::borrow::Cow;

use proptest::prelude::*;
use trine_protocol::Epoch;

use super::*;
use crate::{Growth, Kind, Name, Renaming};

const AT: Stamp = Stamp { secs: 1000, nanos: 5 };

fn make<'a>(tree: &mut Tree, parent: Ino, name: &'a str, kind: Kind<'a>) -> Result<Ino, Errno> {
    let ino = tree.next();
    let name = name.as_bytes().into();
    tree.apply(&Op::Make { parent, name, ino, kind, mode: 0o644, uid: 1, gid: 2, at: AT })?;
    tree.check().unwrap();
    Ok(ino)
}

fn file(tree: &mut Tree, parent: Ino, name: &str) -> Ino {
    make(tree, parent, name, Kind::File).unwrap()
}

fn directory(tree: &mut Tree, parent: Ino, name: &str) -> Ino {
    make(tree, parent, name, Kind::Directory).unwrap()
}

fn apply(tree: &mut Tree, op: &Op<'_>) -> Result<Vec<Ino>, Errno> {
    let before = tree.clone();
    let result = tree.apply(op);
    tree.check().unwrap();
    if result.is_err() {
        assert_eq!(*tree, before, "{op:?} failed and changed something");
    }
    result
}

fn unlink(tree: &mut Tree, parent: Ino, name: &str, open: bool) -> Result<Vec<Ino>, Errno> {
    apply(tree, &Op::Unlink { parent, name: name.as_bytes().into(), open, at: AT })
}

fn rename(
    tree: &mut Tree,
    (parent, name): (Ino, &str),
    (to, new): (Ino, &str),
    how: Renaming,
) -> Result<Vec<Ino>, Errno> {
    let (name, new) = (name.as_bytes().into(), new.as_bytes().into());
    apply(tree, &Op::Rename { parent, name, to, new, how, open: false, at: AT })
}

#[test]
fn a_file_goes_with_its_last_name() {
    let mut tree = Tree::default();
    let ino = file(&mut tree, Ino::ROOT, "a");
    let second = Op::Link { ino, parent: Ino::ROOT, name: (&b"b"[..]).into(), at: AT };
    assert_eq!(apply(&mut tree, &second), Ok(vec![]));
    assert_eq!(apply(&mut tree, &second), Err(Errno::EXIST));
    assert_eq!(tree.get(ino).unwrap().links, 2);
    assert_eq!(apply(&mut tree, &Op::Forget { ino }), Err(Errno::BUSY));
    assert_eq!(unlink(&mut tree, Ino::ROOT, "a", false), Ok(vec![]));
    assert_eq!(unlink(&mut tree, Ino::ROOT, "a", false), Err(Errno::NOENT));
    assert_eq!(unlink(&mut tree, Ino::ROOT, "b", false), Ok(vec![ino]));
    assert_eq!(tree.get(ino), None);
    assert_eq!(apply(&mut tree, &Op::Forget { ino }), Err(Errno::NOENT));
}

#[test]
fn an_open_file_stays_until_it_is_forgotten() {
    let mut tree = Tree::default();
    let (a, b) = (file(&mut tree, Ino::ROOT, "a"), file(&mut tree, Ino::ROOT, "b"));
    for name in ["a", "b"] {
        assert_eq!(unlink(&mut tree, Ino::ROOT, name, true), Ok(vec![]));
    }
    assert!(tree.is_orphan(a));
    let again = Op::Link { ino: a, parent: Ino::ROOT, name: (&b"c"[..]).into(), at: AT };
    assert_eq!(apply(&mut tree, &again), Err(Errno::NOENT));
    let write = Op::Write { ino: a, offset: 0, data: Cow::Borrowed(b"abc"), at: AT };
    assert_eq!(apply(&mut tree, &write), Ok(vec![]));
    assert_eq!(tree.size(a), Some(3));
    assert_eq!(apply(&mut tree, &Op::Forget { ino: a }), Ok(vec![a]));
    assert_eq!(apply(&mut tree, &Op::Epoch { epoch: Epoch(2) }), Ok(vec![b]));
    assert_eq!(tree.len(), 1);
}

#[test]
fn directories_count_their_directories() {
    let mut tree = Tree::default();
    let a = directory(&mut tree, Ino::ROOT, "a");
    let b = directory(&mut tree, Ino::ROOT, "b");
    let c = directory(&mut tree, a, "c");
    assert_eq!(tree.get(a).unwrap().links, 3);
    assert_eq!(rename(&mut tree, (a, "c"), (b, "d"), Renaming::Replace), Ok(vec![]));
    assert_eq!([a, b].map(|ino| tree.get(ino).unwrap().links), [2, 3]);
    assert_eq!(tree.get(c).unwrap().directory().unwrap().parent, b);
    let rmdir = |parent, name: &'static str| Op::Rmdir { parent, name: name.as_bytes().into(), at: AT };
    assert_eq!(apply(&mut tree, &rmdir(Ino::ROOT, "b")), Err(Errno::NOTEMPTY));
    assert_eq!(unlink(&mut tree, b, "d", false), Err(Errno::ISDIR));
    assert_eq!(apply(&mut tree, &rmdir(b, "d")), Ok(vec![]));
    assert_eq!(apply(&mut tree, &rmdir(Ino::ROOT, "b")), Ok(vec![]));
    assert_eq!(tree.get(Ino::ROOT).unwrap().links, 3);
    file(&mut tree, a, "f");
    assert_eq!(apply(&mut tree, &rmdir(a, "f")), Err(Errno::NOTDIR));
}

#[test]
fn renames() {
    let mut tree = Tree::default();
    let root = Ino::ROOT;
    let a = directory(&mut tree, root, "a");
    let b = directory(&mut tree, a, "b");
    let (f, g) = (file(&mut tree, root, "f"), file(&mut tree, b, "g"));
    for (to, new) in [(a, "x"), (b, "x")] {
        assert_eq!(rename(&mut tree, (root, "a"), (to, new), Renaming::Replace), Err(Errno::INVAL));
    }
    assert_eq!(rename(&mut tree, (a, "b"), (root, "a"), Renaming::Replace), Err(Errno::NOTEMPTY));
    assert_eq!(rename(&mut tree, (a, "b"), (root, "a"), Renaming::Exchange), Err(Errno::INVAL));
    assert_eq!(rename(&mut tree, (root, "a"), (a, "b"), Renaming::Exchange), Err(Errno::INVAL));
    assert_eq!(rename(&mut tree, (root, "f"), (root, "a"), Renaming::Replace), Err(Errno::ISDIR));
    assert_eq!(rename(&mut tree, (root, "a"), (root, "f"), Renaming::Replace), Err(Errno::NOTDIR));
    assert_eq!(rename(&mut tree, (root, "f"), (b, "g"), Renaming::Keep), Err(Errno::EXIST));
    assert_eq!(rename(&mut tree, (root, "f"), (b, "h"), Renaming::Exchange), Err(Errno::NOENT));
    assert_eq!(rename(&mut tree, (root, "x"), (b, "h"), Renaming::Replace), Err(Errno::NOENT));
    assert_eq!(rename(&mut tree, (root, "f"), (g, "h"), Renaming::Replace), Err(Errno::NOTDIR));
    assert_eq!(rename(&mut tree, (root, "f"), (root, "f"), Renaming::Replace), Ok(vec![]));
    // A file and a directory change places, and their directories count anew.
    assert_eq!(rename(&mut tree, (root, "f"), (a, "b"), Renaming::Exchange), Ok(vec![]));
    assert_eq!((tree.lookup(root, b"f"), tree.lookup(a, b"b")), (Ok(b), Ok(f)));
    assert_eq!((tree.get(root).unwrap().links, tree.get(a).unwrap().links), (4, 2));
    assert_eq!(rename(&mut tree, (a, "b"), (b, "g"), Renaming::Replace), Ok(vec![g]));
    let empty = directory(&mut tree, root, "empty");
    assert_eq!(rename(&mut tree, (root, "f"), (root, "empty"), Renaming::Replace), Ok(vec![]));
    assert_eq!((tree.get(empty), tree.lookup(root, b"empty")), (None, Ok(b)));
}

#[test]
fn two_names_of_one_file_are_no_rename() {
    let mut tree = Tree::default();
    let ino = file(&mut tree, Ino::ROOT, "a");
    apply(&mut tree, &Op::Link { ino, parent: Ino::ROOT, name: (&b"b"[..]).into(), at: AT }).unwrap();
    for how in [Renaming::Replace, Renaming::Exchange] {
        assert_eq!(rename(&mut tree, (Ino::ROOT, "a"), (Ino::ROOT, "b"), how), Ok(vec![]));
    }
    assert_eq!(tree.get(ino).unwrap().links, 2);
}

#[test]
fn what_can_not_be_is_refused() {
    let mut tree = Tree::default();
    let ino = file(&mut tree, Ino::ROOT, "a");
    let long = "x".repeat(256);
    for (name, error) in [
        ("", Errno::NOENT),
        (".", Errno::EXIST),
        ("..", Errno::EXIST),
        ("a/b", Errno::INVAL),
        ("a\0", Errno::INVAL),
        (&*long, Errno::NAMETOOLONG),
        ("a", Errno::EXIST),
    ] {
        assert_eq!(make(&mut tree, Ino::ROOT, name, Kind::File), Err(error), "{name}");
    }
    assert_eq!(make(&mut tree, ino, "b", Kind::File), Err(Errno::NOTDIR));
    assert_eq!(make(&mut tree, Ino(77), "b", Kind::File), Err(Errno::NOENT));
    let target = |bytes: &'static [u8]| Kind::Symlink(bytes.into());
    assert_eq!(make(&mut tree, Ino::ROOT, "b", target(b"")), Err(Errno::NOENT));
    assert_eq!(make(&mut tree, Ino::ROOT, "b", target(&[b'x'; 4096])), Err(Errno::NAMETOOLONG));
    assert_eq!(make(&mut tree, Ino::ROOT, "b", Kind::CharDevice(1 << 32)), Err(Errno::INVAL));
    let made = |ino, mode, nanos| {
        let at = Stamp { secs: 0, nanos };
        Op::Make { parent: Ino::ROOT, name: (&b"b"[..]).into(), ino, kind: Kind::File, mode, uid: 0, gid: 0, at }
    };
    let next = tree.next();
    for op in [made(ino, 0, 0), made(next, 0o10000, 0), made(next, 0, 1_000_000_000)] {
        assert_eq!(apply(&mut tree, &op), Err(Errno::INVAL));
    }
    for (offset, error) in [(LARGEST_FILE, Errno::FBIG), (u64::MAX, Errno::FBIG)] {
        let write = Op::Write { ino, offset, data: Cow::Borrowed(b"a"), at: AT };
        assert_eq!(apply(&mut tree, &write), Err(error));
    }
    let growth = Growth::Keeps;
    assert_eq!(apply(&mut tree, &Op::Clear { ino, offset: 1, len: 0, growth, at: AT }), Err(Errno::INVAL));
    assert_eq!(apply(&mut tree, &Op::Resize { ino: Ino::ROOT, size: 1, at: AT }), Err(Errno::ISDIR));
    assert_eq!(apply(&mut tree, &Op::Resize { ino, size: LARGEST_FILE, at: AT }), Ok(vec![]));
}

#[test]
fn extended_attributes_have_limits() {
    let mut tree = Tree::default();
    let ino = Ino::ROOT;
    let set = |name: &'static [u8], value: &'static [u8]| Op::SetXattr {
        ino,
        name: name.into(),
        value: value.into(),
        at: AT,
    };
    let remove = Op::RemoveXattr { ino, name: (&b"user.a"[..]).into(), at: AT };
    assert_eq!(apply(&mut tree, &remove), Err(Errno::NODATA));
    assert_eq!(apply(&mut tree, &set(b"user.a", b"1")), Ok(vec![]));
    assert_eq!(apply(&mut tree, &set(b"user.a", &[0; LARGEST_XATTR + 1])), Err(Errno::TOOBIG));
    assert_eq!(apply(&mut tree, &set(&[b'x'; 256], b"")), Err(Errno::RANGE));
    assert_eq!(apply(&mut tree, &remove), Ok(vec![]));
    let mut refused = 0;
    for number in 0..300 {
        let name: Name<'_> = format!("user.{number:0>250}").into_bytes().into();
        refused += u32::from(apply(&mut tree, &Op::SetXattr { ino, name, value: Cow::Borrowed(b""), at: AT }).is_err());
    }
    assert!(refused > 0);
}

#[test]
fn a_file_has_only_so_many_names() {
    let mut tree = Tree::default();
    let ino = file(&mut tree, Ino::ROOT, "0");
    let mut link = |number: u32| {
        let name = number.to_string().into_bytes().into();
        tree.apply(&Op::Link { ino, parent: Ino::ROOT, name, at: AT })
    };
    assert!((1..MOST_LINKS).all(|number| link(number).is_ok()));
    assert_eq!(link(MOST_LINKS), Err(Errno::MLINK));
}

#[test]
fn a_damaged_snapshot_is_noticed() {
    let mut tree = Tree::default();
    let a = directory(&mut tree, Ino::ROOT, "a");
    let f = file(&mut tree, a, "f");
    let b = directory(&mut tree, a, "b");
    let damaged = |damage: &dyn Fn(&mut Tree)| {
        let mut tree = tree.clone();
        damage(&mut tree);
        // Whatever it is like, nothing that is done to it may panic or hang.
        let (name, new) = ((&b"b"[..]).into(), (&b"z"[..]).into());
        tree.clone()
            .apply(&Op::Rename { parent: a, name, to: b, new, how: Renaming::Replace, open: false, at: AT })
            .ok();
        tree.check().is_err()
    };
    assert!(damaged(&|tree| tree.inodes.get_mut(&f).unwrap().links = 2));
    assert!(damaged(&|tree| tree.inodes.get_mut(&a).unwrap().links = 2));
    assert!(damaged(&|tree| drop(tree.inodes.remove(&f))));
    assert!(damaged(&|tree| drop(tree.inodes.remove(&Ino::ROOT))));
    assert!(damaged(&|tree| assert!(tree.orphans.insert(f))));
    assert!(damaged(&|tree| assert!(tree.orphans.insert(Ino(99)))));
    assert!(damaged(&|tree| tree.next = f));
    assert!(damaged(&|tree| tree.inodes.get_mut(&f).unwrap().what = What::File { size: u64::MAX }));
    // Two directories that are in each other.
    assert!(damaged(&|tree| {
        let root = tree.inodes.get_mut(&Ino::ROOT).unwrap();
        root.directory_mut().unwrap().entries.clear();
        root.links = 2;
        tree.inodes.get_mut(&a).unwrap().directory_mut().unwrap().parent = b;
        let b = tree.inodes.get_mut(&b).unwrap();
        b.links = 3;
        b.directory_mut().unwrap().entries.insert(Text::from(&b"a"[..]), a);
    }));
}

fn names() -> impl Strategy<Value = Name<'static>> {
    prop_oneof![
        20 => proptest::sample::select(vec!["a", "b", "c", "d"]).prop_map(|name| name.as_bytes().into()),
        1 => proptest::collection::vec(any::<u8>(), 0..300).prop_map(Cow::Owned),
    ]
}

fn inos() -> impl Strategy<Value = Ino> {
    prop_oneof![20 => (0..12_u64).prop_map(Ino), 1 => any::<u64>().prop_map(Ino)]
}

fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![5 => 0..10_000_u64, 1 => any::<u64>()]
}

fn times() -> impl Strategy<Value = Stamp> {
    (any::<i64>(), prop_oneof![20 => 0..1_000_000_000_u32, 1 => any::<u32>()])
        .prop_map(|(secs, nanos)| Stamp { secs, nanos })
}

fn kinds() -> impl Strategy<Value = Kind<'static>> {
    prop_oneof![
        4 => Just(Kind::File),
        4 => Just(Kind::Directory),
        1 => names().prop_map(Kind::Symlink),
        1 => any::<u64>().prop_map(Kind::CharDevice),
        1 => Just(Kind::Fifo),
    ]
}

/// Operations that often fit, and sometimes can't; `None` in place of a number is the next one.
fn operations() -> impl Strategy<Value = (Op<'static>, bool)> {
    let modes = prop_oneof![20 => 0..0o10000_u32, 1 => any::<u32>()];
    let growth = || prop_oneof![Just(Growth::Grows), Just(Growth::Keeps)];
    let how = prop_oneof![Just(Renaming::Replace), Just(Renaming::Keep), Just(Renaming::Exchange)];
    let op = prop_oneof![
        8 => (inos(), names(), inos(), kinds(), modes.clone(), times())
            .prop_map(|(parent, name, ino, kind, mode, at)| Op::Make { parent, name, ino, kind, mode, uid: 1, gid: 1, at }),
        3 => (inos(), inos(), names(), times()).prop_map(|(ino, parent, name, at)| Op::Link { ino, parent, name, at }),
        3 => (inos(), names(), any::<bool>(), times())
            .prop_map(|(parent, name, open, at)| Op::Unlink { parent, name, open, at }),
        2 => (inos(), names(), times()).prop_map(|(parent, name, at)| Op::Rmdir { parent, name, at }),
        6 => (inos(), names(), inos(), names(), how, any::<bool>(), times())
            .prop_map(|(parent, name, to, new, how, open, at)| Op::Rename { parent, name, to, new, how, open, at }),
        1 => inos().prop_map(|ino| Op::Forget { ino }),
        1 => Just(Op::Epoch { epoch: Epoch(1) }),
        1 => (inos(), sizes(), times())
            .prop_map(|(ino, offset, at)| Op::Write { ino, offset, data: Cow::Borrowed(b"abc"), at }),
        1 => (inos(), sizes(), times()).prop_map(|(ino, size, at)| Op::Resize { ino, size, at }),
        1 => (inos(), sizes(), sizes(), growth(), times())
            .prop_map(|(ino, offset, len, growth, at)| Op::Reserve { ino, offset, len, growth, at }),
        1 => (inos(), sizes(), sizes(), growth(), times())
            .prop_map(|(ino, offset, len, growth, at)| Op::Clear { ino, offset, len, growth, at }),
        1 => (inos(), proptest::option::of(modes), times())
            .prop_map(|(ino, mode, ctime)| Op::Attributes { ino, mode, uid: None, gid: None, atime: None, mtime: None, ctime }),
        1 => (inos(), names(), names(), times()).prop_map(|(ino, name, value, at)| Op::SetXattr { ino, name, value, at }),
        1 => (inos(), names(), times()).prop_map(|(ino, name, at)| Op::RemoveXattr { ino, name, at }),
    ];
    (op, proptest::bool::weighted(0.95))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// After any operations the tree is one, a copy that takes them from the log and one from a snapshot are the same.
    #[test]
    fn any_operations(ops in proptest::collection::vec(operations(), 1..120)) {
        let (mut tree, mut copy) = (Tree::default(), Tree::default());
        for (mut op, fits) in ops {
            if let (Op::Make { ino, .. }, true) = (&mut op, fits) {
                *ino = tree.next();
            }
            let before = tree.clone();
            let result = tree.apply(&op);
            prop_assert!(tree.check().is_ok(), "{op:?}: {:?}", tree.check());
            match &result {
                Err(_) => prop_assert_eq!(&tree, &before),
                Ok(gone) => {
                    let missing = |ino: &Ino| before.get(*ino).is_some_and(Inode::is_file) && tree.get(*ino).is_none();
                    let all: Vec<_> = before.iter().map(|(ino, _)| ino).filter(missing).collect();
                    prop_assert_eq!(gone, &all);
                    prop_assert!(tree.next() >= before.next());
                }
            }
            let sent = postcard::to_stdvec(&op).unwrap();
            prop_assert_eq!(copy.apply(&postcard::from_bytes(&sent).unwrap()), result);
        }
        let snapshot = postcard::to_stdvec(&tree).unwrap();
        prop_assert_eq!(&postcard::from_bytes::<Tree>(&snapshot).unwrap(), &tree);
        prop_assert_eq!(&postcard::to_stdvec(&copy).unwrap(), &snapshot);
        // A snapshot that is cut off or garbled is an error or another tree, and never a panic.
        prop_assert!(postcard::from_bytes::<Tree>(&snapshot[..snapshot.len() - 1]).is_err());
        let mut garbled = snapshot;
        for place in (0..garbled.len()).step_by(7) {
            garbled[place] ^= 0xff;
            if let Ok(tree) = postcard::from_bytes::<Tree>(&garbled) {
                tree.check().ok();
            }
            garbled[place] ^= 0xff;
        }
    }
}
