//! What the kernel's scheduler is told about this process's threads.

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};

/// How long a thread of [`Rank::Control`] or [`Rank::Guard`] may run without ever waiting for anything before the kernel ends
/// its process: their work takes milliseconds, and one that spins would keep a core from the database.
const SPIN_US: u64 = 5_000_000;

/// What a thread does, and so whom it may keep waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// Ends a database whose lease is over. Before everybody else.
    Guard,
    /// Renews leases, decides, fences: little work, but late it costs a failover.
    Control,
    /// Does to the database what was decided: ahead of others, but it may be long, so never in real time.
    Work,
    /// Carries the clients' bytes. As everybody else: ahead of the database it would only interrupt it.
    Bytes,
}

/// How far the kernel went along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// The thread runs before all that is not real-time, whatever the load, and whatever group of processes it is in.
    RealTime,
    /// It has a larger share than others (a nice value), within its session: a machine that is full can make it late.
    Nice,
    /// As asked: nothing special.
    Usual,
    /// More was refused, as it is to an ordinary user without `RLIMIT_RTPRIO` or `CAP_SYS_NICE`.
    Refused,
}

/// Ranks the calling thread. What it starts afterwards, threads and programs, does not have real time from it; a nice value,
/// where that was all there was, it has.
///
/// Nice values alone do not do for a lease: where the kernel schedules by session (`sched_autogroup`), they count only among
/// the threads of one session.
pub fn rank_thread(rank: Rank) -> Granted {
    let (real_time, nice) = match rank {
        Rank::Guard => (2, -15),
        Rank::Control => (1, -10),
        Rank::Work => {
            return if setpriority_process(None, -10).is_ok() { Granted::Nice } else { Granted::Refused };
        }
        Rank::Bytes => {
            let _ = setpriority_process(None, 0);
            return Granted::Usual;
        }
    };
    bound_spinning();
    if set_round_robin(real_time) {
        Granted::RealTime
    } else if setpriority_process(None, nice).is_ok() {
        Granted::Nice
    } else {
        Granted::Refused
    }
}

fn bound_spinning() {
    let limit = getrlimit(Resource::Rttime);
    let current = limit.maximum.map_or(SPIN_US, |most| most.min(SPIN_US));
    let _ = setrlimit(Resource::Rttime, Rlimit { current: Some(current), maximum: limit.maximum });
}

#[allow(unsafe_code)]
fn set_round_robin(priority: i32) -> bool {
    // SAFETY: all of these bytes may be zero.
    let mut wanted: libc::sched_param = unsafe { std::mem::zeroed() };
    wanted.sched_priority = priority;
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // The system call itself: musl's function of that name refuses everything.
    // SAFETY: it reads `wanted` and keeps nothing; 0 is the calling thread.
    unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, std::ptr::from_ref(&wanted)) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scheduling class of a thread and its nice value, as the kernel shows them.
    fn shown() -> (String, String) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        (fields[38].to_owned(), fields[16].to_owned())
    }

    #[test]
    fn what_a_ranked_thread_starts_begins_as_usual() {
        std::thread::spawn(|| {
            let granted = rank_thread(Rank::Control);
            let policy = shown().0;
            assert_eq!(policy == libc::SCHED_RR.to_string(), granted == Granted::RealTime, "{granted:?}: {policy}");
            if granted == Granted::RealTime {
                let child = std::thread::spawn(shown).join().unwrap();
                assert_eq!(child, ("0".to_owned(), "0".to_owned()));
            }
            assert_eq!(
                std::thread::spawn(|| (rank_thread(Rank::Bytes), shown().1)).join().unwrap(),
                (Granted::Usual, "0".to_owned())
            );
        })
        .join()
        .unwrap();
    }
}
