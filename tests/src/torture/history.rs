//! What the clients of a run were told, and whether it can be true.

use std::collections::BTreeMap;

use trine_history::list::{self, Append};
use trine_history::{Outcome, Span, register};

use crate::ledger::{Ack, Report, violations};

/// Who answered, in which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When the question was sent, in nanoseconds since boot.
    pub asked: u64,
    /// When the answer was complete.
    pub at: u64,
    /// The node's number (of `n2` it is 2), and the epoch that it answered in, where the database knows.
    pub by: Option<(u8, u64)>,
    /// It acknowledged a write.
    pub write: bool,
}

/// All that was asked and answered so far. Times are in nanoseconds since boot: every client is on this machine.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// To the list.
    pub appends: Vec<Append>,
    /// Of the list. An acknowledged append is one of them, too: it says how long the list then was.
    pub reads: Vec<list::Read>,
    /// Of each register.
    pub registers: BTreeMap<u32, Vec<register::Operation>>,
    /// Every answer, and who gave it.
    pub answers: Vec<Answer>,
    /// Values whose commit was answered with OK and the warning that it was not replicated.
    pub let_through: Vec<i64>,
    /// Answers that no database which keeps what it has can give.
    pub impossible: Vec<String>,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
}

impl History {
    /// As if it had ended at this moment: what was answered later was not answered yet.
    #[must_use]
    pub fn until(&self, moment: u64) -> Self {
        let cut = |span: Span| if span.done() > moment { Span::unknown(span.asked) } else { span };
        let appends = self.appends.iter().map(|a| Append { span: cut(a.span), ..*a }).collect();
        let reads = self.reads.iter().filter(|r| r.span.done() <= moment).copied().collect();
        let registers = self.registers.iter().map(|(key, all)| {
            let all = all.iter().map(|o| register::Operation { span: cut(o.span), ..*o });
            (*key, all.collect())
        });
        let answers = self.answers.iter().filter(|a| a.at <= moment).copied().collect();
        let registers = registers.collect();
        Self { appends, reads, registers, answers, ..self.rest() }
    }

    /// What is no question and no answer.
    fn rest(&self) -> Self {
        Self {
            let_through: self.let_through.clone(),
            impossible: self.impossible.clone(),
            errors: self.errors.clone(),
            ..Self::default()
        }
    }

    /// What can't be true of it when the list is this one: a sentence for each.
    #[must_use]
    pub fn faults(&self, list: &[u64]) -> Vec<String> {
        let mut wrong: Vec<String> =
            list::check(&self.appends, &self.reads, list).iter().map(|f| format!("the list: {f}")).collect();
        for (key, operations) in &self.registers {
            if let Err(fault) = register::check(operations) {
                wrong.push(format!("register {key}: {fault}"));
            }
        }
        wrong.extend(self.impossible.iter().cloned());
        let acks = self.answers.iter().filter_map(|a| {
            let (node, epoch) = a.by?;
            Some(Ack { id: 0, sent_ns: a.asked, acked_ns: a.at, node: format!("n{node}"), epoch })
        });
        let answers = Report {
            table: "torture_list".to_owned(),
            acks: acks.collect(),
            let_through: self.let_through.clone(),
            ..Report::default()
        };
        wrong.extend(violations(&[answers]));
        wrong
    }

    /// When writes were acknowledged, in order.
    #[must_use]
    pub fn acknowledged_at(&self) -> Vec<u64> {
        let mut at: Vec<u64> = self.answers.iter().filter(|a| a.write).map(|a| a.at).collect();
        at.sort_unstable();
        at
    }

    /// The numbers: acknowledged writes, answered reads, questions whose outcome nobody knows.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let writes = self.answers.iter().filter(|a| a.write).count();
        let unknown = |span: &Span| span.outcome == Outcome::Unknown;
        let of_registers = self.registers.values().flatten();
        let is_write = |o: &&register::Operation| matches!(o.action, register::Action::Write(_));
        Counts {
            writes,
            reads: self.answers.len() - writes,
            unknown: self.appends.iter().filter(|a| unknown(&a.span)).count()
                + of_registers.filter(is_write).filter(|o| unknown(&o.span)).count(),
        }
    }
}

/// How much was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged writes.
    pub writes: usize,
    /// Answered reads.
    pub reads: usize,
    /// Writes of which no client knows what became.
    pub unknown: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(asked: u64, at: u64, node: u8, epoch: u64) -> Answer {
        Answer { asked, at, by: Some((node, epoch)), write: true }
    }

    fn example() -> History {
        let append = |value, span| Append { value, span };
        History {
            appends: vec![
                append(7, Span::answered(1, 2)),
                append(8, Span::answered(3, 9)),
                append(9, Span::unknown(4)),
            ],
            reads: vec![list::Read { length: 1, last: Some(7), span: Span::answered(1, 2) }],
            answers: vec![answer(1, 2, 1, 2), answer(3, 9, 2, 3)],
            ..History::default()
        }
    }

    #[test]
    fn what_is_there_is_true_and_what_is_lost_is_found() {
        assert_eq!(example().faults(&[7, 8]), Vec::<String>::new());
        assert_eq!(example().faults(&[7, 8, 9]), Vec::<String>::new());
        assert!(example().faults(&[7])[0].contains("lost"));
    }

    #[test]
    fn what_was_answered_later_need_not_be_there_yet() {
        assert_eq!(example().until(5).faults(&[7]), Vec::<String>::new());
        assert!(!example().until(5).faults(&[8]).is_empty());
    }

    #[test]
    fn two_nodes_in_one_epoch_are_found() {
        let mut h = example();
        h.answers.push(answer(10, 11, 3, 3));
        assert!(h.faults(&[7, 8]).iter().any(|f| f.contains("more than one node")));
    }

    #[test]
    fn an_impossible_answer_is_found_though_nobody_knows_who_gave_it() {
        let mut h = example();
        h.answers.iter_mut().for_each(|a| a.by = None);
        assert_eq!(h.faults(&[7, 8]), Vec::<String>::new());
        h.impossible.push("value 7 is damaged".to_owned());
        assert_eq!(h.until(5).faults(&[7]), ["value 7 is damaged"]);
    }

    #[test]
    fn counts_are_of_writes_reads_and_the_unknown() {
        assert_eq!(example().counts(), Counts { writes: 2, reads: 0, unknown: 1 });
        assert_eq!(example().acknowledged_at(), [2, 9]);
    }
}
