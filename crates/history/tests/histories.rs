//! Histories that are known to be good, and some that are known to be bad; then any small one, against a search by force.

use proptest::prelude::*;
use trine_history::list::{self, Append, Fault, Read};
use trine_history::register::{self, Action, Operation};
use trine_history::{Outcome, Span};

fn append(value: u64, asked: u64, at: u64) -> Append {
    Append { value, span: Span::answered(asked, at) }
}

fn read(length: usize, last: u64, asked: u64, at: u64) -> Read {
    Read { length, last: (length > 0).then_some(last), span: Span::answered(asked, at) }
}

#[test]
fn a_list_that_lost_nothing() {
    let appends = [append(1, 0, 10), append(2, 5, 30), append(3, 20, 40), Append { value: 4, span: Span::unknown(50) }];
    let reads = [read(0, 0, 0, 8), read(2, 2, 12, 25), read(3, 3, 41, 45)];
    assert_eq!(list::check(&appends, &reads, &[1, 2, 3]), []);
    assert_eq!(list::check(&appends, &reads, &[1, 2, 3, 4]), [], "what nobody knows may be there, or not");
}

#[test]
fn what_no_list_can_have_answered() {
    let appends = [append(1, 0, 10), append(2, 20, 30), append(3, 40, 50)];
    let refused = Append { value: 9, span: Span { asked: 0, outcome: Outcome::Refused } };
    let faults = |reads: &[Read], list: &[u64]| list::check(&[&appends[..], &[refused]].concat(), reads, list);
    assert_eq!(faults(&[], &[1, 3]), [Fault::Lost { value: 2, at: 30 }]);
    assert_eq!(faults(&[], &[1, 2, 3, 2]).first(), Some(&Fault::Twice { value: 2, first: 1, second: 3 }));
    assert_eq!(faults(&[], &[1, 2, 3, 7]), [Fault::Invented { value: 7, place: 3 }]);
    assert_eq!(faults(&[], &[1, 2, 3, 9]), [Fault::Invented { value: 9, place: 3 }], "it was refused");
    let out_of_order = Fault::OutOfOrder { earlier: 1, acknowledged: 10, later: 2, sent: 20 };
    assert_eq!(faults(&[], &[2, 1, 3]), [out_of_order]);
    let dirty = read(2, 7, 22, 28);
    assert_eq!(faults(&[dirty], &[1, 2, 3]), [Fault::DirtyRead { at: 28, length: 2, last: Some(7) }]);
    let stale = Fault::StaleRead { sent: 31, length: 1, known: 2, since: 30 };
    assert_eq!(faults(&[read(1, 1, 31, 35)], &[1, 2, 3]), [stale]);
    let again = [read(2, 2, 22, 24), read(1, 1, 25, 26)];
    let back = Fault::StaleRead { sent: 25, length: 1, known: 2, since: 24 };
    assert_eq!(faults(&again, &[1, 2, 3]), [back], "what one client has seen, the next one sees");
    let early = Fault::FromTheFuture { at: 35, value: 3, sent: 40 };
    assert_eq!(faults(&[read(3, 3, 31, 35)], &[1, 2, 3]), [early]);
}

fn write(value: u64, asked: u64, at: u64) -> Operation {
    Operation { action: Action::Write(value), span: Span::answered(asked, at) }
}

fn saw(value: u64, asked: u64, at: u64) -> Operation {
    let value = (value > 0).then_some(value);
    Operation { action: Action::Read(value), span: Span::answered(asked, at) }
}

#[test]
fn a_register_that_is_one() {
    let good = [write(1, 10, 20), saw(0, 5, 12), saw(1, 13, 18), write(2, 15, 40), saw(1, 22, 26), saw(2, 25, 30)];
    assert_eq!(register::check(&good), Ok(()));
    let unknown = Operation { action: Action::Write(3), span: Span::unknown(50) };
    assert_eq!(register::check(&[&good[..], &[unknown, saw(3, 90, 91)]].concat()), Ok(()));
    assert_eq!(register::check(&[&good[..], &[unknown, saw(2, 90, 91)]].concat()), Ok(()));
}

#[test]
fn what_no_register_can_have_answered() {
    let after = [write(1, 10, 20), write(2, 30, 40), saw(1, 50, 60)];
    assert!(matches!(register::check(&after), Err(register::Fault::Stale { .. })), "an old value");
    let back = [write(1, 10, 20), write(2, 30, 90), saw(2, 40, 45), saw(1, 50, 60)];
    assert!(matches!(register::check(&back), Err(register::Fault::Stale { .. })), "a new value, then the old one");
    let early = [saw(1, 5, 8), write(1, 10, 20)];
    let expected = register::Fault::FromTheFuture { value: 1, at: 8, sent: 10 };
    assert_eq!(register::check(&early), Err(expected));
    assert_eq!(register::check(&[saw(7, 5, 8)]), Err(register::Fault::Invented { value: 7, at: 8 }));
    assert_eq!(register::check(&[write(1, 0, 1), write(1, 2, 3)]), Err(register::Fault::NotUnique(1)));
    assert!(register::check(&[write(1, 10, 20), saw(0, 30, 40)]).is_err(), "it was written");
}

/// Is there an order that explains everything? Tries them all.
fn explained(left: &[Operation], value: Option<u64>) -> bool {
    let Some(deadline) = left.iter().filter(|o| o.span.is_answered()).map(|o| o.span.done()).min() else { return true };
    // Next can only be what was asked before the first answer among the rest.
    left.iter().enumerate().filter(|(_, o)| o.span.asked <= deadline).any(|(i, o)| {
        let after = match o.action {
            Action::Write(new) => Some(new),
            Action::Read(seen) if seen == value => value,
            Action::Read(_) => return false,
        };
        let rest: Vec<Operation> = left.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, o)| *o).collect();
        explained(&rest, after)
    })
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    // No two moments are the same, so nothing hangs on what counts as before.
    let one = (0..40u64, 1..25u64, 0..6u64, prop::bool::weighted(0.1), any::<bool>());
    proptest::collection::vec(one, 1..8).prop_map(|all| {
        let numbered = all.into_iter().zip(1u64..);
        numbered
            .map(|((asked, took, seen, unknown, writes), n)| {
                let (asked, at) = (asked * 100 + n, (asked + took) * 100 + 50 + n);
                let action = if writes { Action::Write(n) } else { Action::Read((seen > 0).then_some(seen)) };
                Operation { action, span: if unknown { Span::unknown(asked) } else { Span::answered(asked, at) } }
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_small_history_is_judged_as_by_force(history in operations()) {
        // A read without an answer says nothing; a write may happen or not.
        let told: Vec<Operation> = history
            .iter()
            .filter(|o| o.span.is_answered() || matches!(o.action, Action::Write(_)))
            .copied()
            .collect();
        prop_assert_eq!(register::check(&history).is_ok(), explained(&told, None), "{:?}", register::check(&history));
    }
}
