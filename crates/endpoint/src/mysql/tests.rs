//! Sessions packet by packet, however the reads fall.

use rand::{Rng, SeedableRng};

use super::*;

const EOF_DEPRECATED: u32 = 1 << 24;
/// All flags but the one that says that there are no extensions.
const MARIADB: u32 = 0xffff_fffe;
const BASE: u32 = 1 | 1 << 9 | 1 << 15;

#[derive(Clone)]
enum Said {
    Client(Vec<u8>),
    Server(Vec<u8>),
}
use Said::{Client, Server};

fn packet(sequence: u8, body: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&[a, b, c, sequence], body].concat()
}

fn c(sequence: u8, body: &[u8]) -> Said {
    Client(packet(sequence, body))
}

fn s(sequence: u8, body: &[u8]) -> Said {
    Server(packet(sequence, body))
}

fn greeting(offers: u32, extended: u32) -> Said {
    let [a, b, c, d] = offers.to_le_bytes();
    let middle = [1, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 0, a, b, 45, 2, 0, c, d, 21, 0, 0, 0, 0, 0, 0];
    s(0, &[b"\x0a5.5.5-10.11.19-MariaDB\0", &middle[..], &extended.to_le_bytes(), b"more\0"].concat())
}

fn response(takes: u32, extended: u32) -> Said {
    c(1, &[&takes.to_le_bytes()[..], &[0; 24], &extended.to_le_bytes(), b"app\0"].concat())
}

fn ok(sequence: u8, status: u16) -> Said {
    // Its integers have one and three bytes; information about the session follows.
    s(sequence, &[&[0, 1, 0xfc, 7, 8][..], &status.to_le_bytes(), &[0, 0, 3, b'x', b'y', b'z']].concat())
}

fn eof(sequence: u8, status: u16) -> Said {
    s(sequence, &[&[0xfe, 0, 0][..], &status.to_le_bytes()].concat())
}

fn ok_as_eof(sequence: u8, status: u16) -> Said {
    s(sequence, &[&[0xfe, 0, 0][..], &status.to_le_bytes(), &[0, 0]].concat())
}

fn err(sequence: u8, number: u16) -> Said {
    s(sequence, &[&[0xff][..], &number.to_le_bytes(), b"#HY000no"].concat())
}

fn definition(sequence: u8) -> Said {
    s(sequence, b"\x03def\x00\x00\x00\x01i\x01i\x0c\x3f\0\x0b\0\0\0\x03\x81\0\0\0\0")
}

fn query() -> Said {
    c(0, b"\x03select")
}

fn login(takes: u32, extended: u32) -> Vec<Said> {
    vec![greeting(MARIADB, u32::MAX), response(takes, extended), ok(2, 2)]
}

fn say(t: &mut Tracker, said: &Said) {
    match said {
        Client(bytes) => t.note_client(&mut bytes.clone()),
        Server(bytes) => t.note_server(&mut bytes.clone()),
    }
}

fn after(said: &[Said]) -> Tracker {
    let mut t = Tracker::default();
    for said in said {
        say(&mut t, said);
    }
    t
}

/// After a login that takes this, all of `said` belongs to one exchange: the session is idle after its last packet and not before,
/// wherever a packet is cut, and a message of our own would have the number that the server's next packet has.
fn exchange_after(takes: u32, extended: u32, said: &[Said]) {
    let before = login(takes, extended);
    let mut t = after(&before);
    assert!(t.idle() && t.ready_once() && !t.in_request() && t.between_messages());
    assert_eq!(t.place(), Place { sequence: 1, has_state: true });
    for (i, now) in said.iter().enumerate() {
        let (Client(bytes) | Server(bytes)) = now;
        let is_clients = matches!(now, Client(_));
        assert!(is_clients || t.place().sequence == bytes[3], "{i}: {:?}", t.place());
        for cut in 1..bytes.len() {
            let mut t = after(&[&before[..], &said[..i]].concat());
            let (a, b) = bytes.split_at(cut);
            let half = |half: &[u8]| if is_clients { Client(half.to_vec()) } else { Server(half.to_vec()) };
            say(&mut t, &half(a));
            assert!(!t.idle() && t.between_messages() == is_clients, "{i} {cut}");
            say(&mut t, &half(b));
            assert!(!t.is_lost(), "{i} {cut}");
            assert_eq!(t.idle(), i + 1 == said.len(), "{i} {cut}");
        }
        say(&mut t, now);
        assert_eq!(t.idle(), i + 1 == said.len(), "{i}");
    }
    assert_eq!(t.place().sequence, 1);
}

fn exchange(said: &[Said]) {
    exchange_after(BASE, 0, said);
}

#[test]
fn simple_commands_have_one_answer() {
    for command in [0x02, 0x0e, 0x1a, 0x1b, 0x1f] {
        exchange(&[c(0, &[command, 1]), ok(1, 2)]);
        exchange(&[c(0, &[command]), eof(1, 2)]);
        exchange(&[c(0, &[command]), err(1, 1064)]);
        exchange_after(BASE | EOF_DEPRECATED, 0, &[c(0, &[command]), ok_as_eof(1, 2)]);
    }
    exchange(&[c(0, &[9]), s(1, b"Uptime: 1")]);
}

#[test]
fn a_result_set_ends_with_its_rows() {
    for command in [3, 0x17, 0xfa, 0x0a] {
        // A row may begin with a NULL, and with a zero.
        let (null, zero) = (s(5, &[0xfb, 1, b'x']), s(6, &[0, 1]));
        let head = [c(0, &[command]), s(1, &[2]), definition(2), definition(3)];
        let tail = [eof(4, 2), null.clone(), zero.clone()];
        exchange(&[&head[..], &tail, &[eof(7, 2)]].concat());
        exchange(&[&head[..], &tail, &[err(7, 1317)]].concat());
        let tail = [s(4, &[0xfb, 1, b'x']), s(5, &[0, 1]), ok_as_eof(6, 2)];
        exchange_after(BASE | EOF_DEPRECATED, 0, &[&head[..], &tail].concat());
        exchange_after(BASE | EOF_DEPRECATED, 0, &[&head[..], &[err(4, 1317)]].concat());
    }
}

#[test]
fn more_results_belong_to_the_same_answer() {
    let multi = [query(), ok(1, 8), s(2, &[1]), definition(3), eof(4, 8), s(5, &[1, b'1']), eof(6, 10), ok(7, 2)];
    exchange(&multi);
    exchange(&[&multi[..7], &[err(7, 1064)]].concat());
    exchange_after(
        BASE | EOF_DEPRECATED,
        0,
        &[query(), s(1, &[1]), definition(2), s(3, &[1, b'1']), ok_as_eof(4, 8), ok(5, 2)],
    );
}

#[test]
fn a_statement_is_prepared_with_its_definitions() {
    let prepared = |columns: u8, parameters: u8| s(1, &[0, 7, 0, 0, 0, columns, 0, parameters, 0, 0, 0, 0]);
    let command = c(0, b"\x16select ?");
    exchange(&[command.clone(), prepared(0, 0)]);
    exchange(&[command.clone(), err(1, 1064)]);
    exchange(&[command.clone(), prepared(0, 1), definition(2), eof(3, 2)]);
    exchange(&[command.clone(), prepared(1, 0), definition(2), eof(3, 2)]);
    let both = [command.clone(), prepared(1, 2), definition(2), definition(3), eof(4, 2), definition(5), eof(6, 2)];
    exchange(&both);
    let both = [command, prepared(1, 2), definition(2), definition(3), definition(4)];
    exchange_after(BASE | EOF_DEPRECATED, 0, &both);
}

#[test]
fn a_cursors_rows_are_fetched() {
    let (opened, fetch) = ([c(0, &[0x17]), s(1, &[1]), definition(2)], c(0, &[0x1c]));
    exchange(&[&opened[..], &[eof(3, 0x42)]].concat());
    exchange_after(BASE | EOF_DEPRECATED, 0, &[&opened[..], &[ok_as_eof(3, 0x42)]].concat());
    exchange(&[fetch.clone(), s(1, &[0, 0, 1]), s(2, &[0, 0, 2]), eof(3, 0x82)]);
    exchange(&[fetch, err(1, 1421)]);
    exchange(&[c(0, b"\x04t\0"), definition(1), definition(2), eof(3, 2)]);
}

#[test]
fn a_file_is_sent_between_the_request_for_it_and_the_answer() {
    exchange(&[query(), s(1, b"\xfb/tmp/x"), c(2, b"\x01not a command"), c(3, b"2"), c(4, b""), ok(5, 2)]);
    exchange(&[query(), s(1, b"\xfb/tmp/x"), c(2, b""), err(3, 2)]);
    // Of two statements the second one sends it.
    exchange(&[query(), ok(1, 8), s(2, b"\xfb/tmp/x"), c(3, b"1"), c(4, b""), ok(5, 10), ok(6, 2)]);
    // Before it has been sent, an error has the number after that of an empty one.
    let t = after(&[&login(BASE, 0)[..], &[query(), s(1, b"\xfb/tmp/x")]].concat());
    assert_eq!((t.place().sequence, t.in_request()), (3, true));
}

#[test]
fn progress_is_no_error() {
    exchange(&[query(), err(1, 0xffff), err(2, 0xffff), ok(3, 2)]);
}

#[test]
fn column_definitions_may_be_left_out() {
    const CACHE: u32 = 1 << 4;
    let takes = BASE & !1;
    let full = [query(), s(1, &[1, 1]), definition(2), eof(3, 2), s(4, &[1, b'x']), eof(5, 2)];
    exchange_after(takes, CACHE, &full);
    exchange_after(takes, CACHE, &[query(), s(1, &[1, 0]), eof(2, 2), s(3, &[1, b'x']), eof(4, 2)]);
    let short = [query(), s(1, &[1, 0]), s(2, &[1, b'x']), ok_as_eof(3, 2)];
    exchange_after(takes | EOF_DEPRECATED, CACHE, &short);
    // Where it is not agreed on there is no such byte.
    assert!(after(&[&login(takes, 0)[..], &full[..2]].concat()).is_lost());
}

#[test]
fn a_long_row_is_no_end_and_a_long_command_has_a_later_answer() {
    let mut t = after(&[&login(BASE | EOF_DEPRECATED, 0)[..], &[query(), s(1, &[1]), definition(2)]].concat());
    let mut row = packet(3, &vec![0; packets::PIECE]);
    row[4] = 0xfe;
    t.note_server(&mut row);
    assert!(!t.between_messages());
    say(&mut t, &s(4, b"rest"));
    assert!(t.between_messages() && t.in_request());
    assert_eq!(t.place().sequence, 5);
    say(&mut t, &ok_as_eof(5, 2));
    assert!(t.idle());

    let mut command = packet(0, &vec![b'x'; packets::PIECE]);
    command[4] = 3;
    t.note_client(&mut command);
    assert!(!t.in_request());
    say(&mut t, &c(1, b""));
    assert_eq!((t.place().sequence, t.in_request()), (2, true));
    say(&mut t, &ok(2, 2));
    assert!(t.idle());
}

#[test]
fn some_commands_have_no_answer() {
    for command in [0x18, 0x19] {
        let mut t = after(&login(BASE, 0));
        say(&mut t, &c(0, &[command, 1, 0, 0, 0]));
        assert!(t.idle() && !t.in_request());
    }
    let t = after(&[&login(BASE, 0)[..], &[c(0, &[1])]].concat());
    assert!(t.over() && t.between_messages());
}

#[test]
fn a_pipeline_is_busy_until_its_last_answer() {
    let mut t = after(&[&login(BASE, 0)[..], &[c(0, &[0x16]), c(0, &[0x19]), c(0, &[0x17]), query()]].concat());
    let answers =
        [s(1, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), s(1, &[1]), definition(2), eof(3, 2), eof(4, 2), ok(1, 2)];
    for answer in &answers {
        assert!(t.in_request() && !t.idle() && !t.is_lost());
        let Server(bytes) = answer else { unreachable!() };
        assert_eq!(t.place().sequence, bytes[3]);
        say(&mut t, answer);
    }
    assert!(t.idle());

    let mut t = after(&login(BASE, 0));
    for _ in 0..=MOST_OWED {
        say(&mut t, &query());
    }
    assert!(t.is_lost());
}

#[test]
fn a_transaction_is_busy_between_its_statements() {
    let mut t = after(&[&login(BASE, 0)[..], &[query(), ok(1, 3)]].concat());
    assert!(!t.idle() && !t.in_request());
    // What an error has done to it is not known.
    for said in [query(), err(1, 1062)] {
        say(&mut t, &said);
        assert!(!t.idle());
    }
    for said in [query(), s(1, &[1]), definition(2), eof(3, 3), eof(4, 3)] {
        say(&mut t, &said);
        assert!(!t.idle());
    }
    for said in [query(), ok(1, 2)] {
        assert!(!t.idle());
        say(&mut t, &said);
    }
    assert!(t.idle());
}

#[test]
fn an_authentication_goes_to_and_fro() {
    let mut t = Tracker::default();
    let questions = [
        (None, Place::OPENING),
        (Some(greeting(u32::MAX, 0)), Place { sequence: 2, has_state: false }),
        (Some(response(BASE, 0)), Place { sequence: 2, has_state: true }),
        (Some(s(2, b"\xfeother_plugin\0scramble")), Place { sequence: 4, has_state: true }),
        (Some(c(3, b"\xffreply")), Place { sequence: 4, has_state: true }),
        (Some(s(4, &[1, 4])), Place { sequence: 6, has_state: true }),
        (Some(c(5, b"password\0")), Place { sequence: 6, has_state: true }),
        (Some(s(6, &[1, 3])), Place { sequence: 7, has_state: true }),
    ];
    for (said, place) in questions {
        if let Some(said) = said {
            say(&mut t, &said);
        }
        assert_eq!(t.place(), place);
        assert!(!t.idle() && !t.ready_once() && !t.is_lost() && t.between_messages());
    }
    say(&mut t, &ok(7, 2));
    assert!(t.idle() && t.ready_once());

    // Another user, in the same way; the client's answers are no commands.
    say(&mut t, &c(0, b"\x11other\0"));
    assert!(!t.idle());
    assert_eq!(t.place().sequence, 1);
    for said in [s(1, b"\xfeplugin\0scramble"), c(2, b"\x1d"), ok(3, 2)] {
        assert!(!t.idle());
        say(&mut t, &said);
    }
    assert!(t.idle());
}

#[test]
fn a_refusal_is_the_last_word() {
    let refused = [
        vec![err(0, 1040)],
        vec![greeting(u32::MAX, 0), response(BASE, 0), err(2, 1045)],
        [&login(BASE, 0)[..], &[err(1, 1927)]].concat(),
    ];
    for said in refused {
        let t = after(&said);
        assert!(t.over() && !t.between_messages() && !t.idle() && !t.is_lost());
    }
}

#[test]
fn what_is_hidden_or_does_not_fit_is_lost() {
    for takes in [BASE | 1 << 11, BASE & !(1 << 9)] {
        assert!(after(&[greeting(u32::MAX, 0), response(takes, 0)]).is_lost(), "{takes:x}");
    }
    // Compression begins after the authentication.
    for flag in [1 << 5, 1 << 25, 1 << 26] {
        let said = [greeting(u32::MAX, 0), response(BASE | flag, 0), ok(2, 2)];
        assert!(!after(&said[..2]).is_lost() && after(&said).is_lost(), "{flag:x}");
    }
    // What the server has not offered is not taken, whatever the client says.
    assert!(!after(&[greeting(BASE, 0), response(u32::MAX, 0)]).is_lost());
    let strange: [&[Said]; 12] = [
        &[c(0, &[0x12])],
        &[c(0, &[0x15])],
        &[c(0, &[0x1e])],
        &[c(0, &[0x77])],
        &[c(0, &[])],
        &[c(1, &[3])],
        &[ok(1, 2)],
        &[query(), ok(2, 2)],
        &[query(), s(1, &[0])],
        &[query(), s(1, b"\xfbx"), ok(2, 2)],
        &[query(), query(), s(1, b"\xfbx")],
        &[query(), c(0, &[0x11])],
    ];
    for (i, said) in strange.iter().enumerate() {
        let mut t = after(&[&login(BASE, 0)[..], said].concat());
        assert!(t.is_lost() && !t.idle() && !t.between_messages(), "{i}");
        for said in [query(), ok(1, 2)] {
            say(&mut t, &said);
        }
        assert!(t.is_lost() && !t.in_request());
    }
    assert!(after(&[c(0, b"GET / HTTP/1.1")]).is_lost());
    assert!(after(&[s(0, b"SSH-2.0")]).is_lost());
}

#[test]
fn arbitrary_bytes_are_passed_over() {
    let mut rng = rand::rngs::StdRng::seed_from_u64(7);
    let whole = [
        login(BASE | EOF_DEPRECATED, 0),
        vec![query(), s(1, &[1]), definition(2), s(3, &[1, b'x']), ok_as_eof(4, 2)],
        vec![query(), s(1, b"\xfbx"), c(2, b"1"), c(3, b""), ok(4, 2)],
        vec![c(0, &[0x16]), s(1, &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]), definition(2), definition(3)],
    ]
    .concat();
    for _ in 0..20_000 {
        let mut t = Tracker::default();
        let flaws = rng.random_range(0..4);
        for said in &whole {
            let mut said = said.clone();
            let (Client(bytes) | Server(bytes)) = &mut said;
            if rng.random_ratio(flaws, 12) {
                let at = rng.random_range(0..bytes.len());
                match rng.random_range(0..3) {
                    0 => bytes[at] = rng.random(),
                    1 => bytes.truncate(at),
                    _ => bytes.extend((0..rng.random_range(0..300)).map(|_| rng.random::<u8>())),
                }
            }
            say(&mut t, &said);
            let _ = (t.idle(), t.over(), t.place(), t.between_messages(), t.in_request());
            if t.is_lost() {
                break;
            }
        }
        assert!(flaws > 0 || t.idle());
    }
}
