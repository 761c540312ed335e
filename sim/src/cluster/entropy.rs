//! Randomness and time of a thread, from a seed.
//!
//! Hash maps, `select!`, election timeouts and keys take their randomness from the operating system, and some code its time,
//! in libraries that can't be told otherwise. Inside a simulation both must come from it, or no run could be had again: so
//! this program has a `getrandom` and a `clock_gettime` of its own, which every library's call ends in. Threads without a
//! seed get the real ones.
#![allow(unsafe_code, reason = "functions of the C library are defined here, and memory of their callers is written")]

use std::cell::Cell;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// What clocks show at the beginning of a run, in nanoseconds: 2026-01-01, and for the others a machine that has been up long.
const BEGAN: u64 = 1_767_225_600_000_000_000;

/// From here on this thread's randomness is the seed's. What was drawn before it is not: a run has a thread of its own.
pub(super) fn seed_thread(seed: u64) {
    STATE.set(Some(seed));
}

/// What the clocks show from here on: so many nanoseconds since the beginning.
pub(super) fn set_time(now: u64) {
    NOW.set(now);
}

/// SplitMix64 (Steele, Lea, Flood, 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// As getrandom(2).
///
/// # Safety
/// `buffer` is valid for writes of `length` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    let Some(mut state) = STATE.get() else {
        // SAFETY: the arguments are passed on as they are.
        let filled = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
        return isize::try_from(filled).unwrap_or(-1);
    };
    // SAFETY: by this function's contract.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let word = next(&mut state).to_le_bytes();
        chunk.iter_mut().zip(word).for_each(|(to, from)| *to = from);
    }
    STATE.set(Some(state));
    isize::try_from(length).unwrap_or(-1)
}

/// As clock_gettime(2).
///
/// # Safety
/// `time` is valid for a write.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    if STATE.get().is_none() {
        // SAFETY: the arguments are passed on as they are.
        let done = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
        return libc::c_int::try_from(done).unwrap_or(-1);
    }
    let now = BEGAN + NOW.get();
    let shown = libc::timespec {
        tv_sec: libc::time_t::try_from(now / 1_000_000_000).unwrap_or(0),
        tv_nsec: libc::c_long::try_from(now % 1_000_000_000).unwrap_or(0),
    };
    // SAFETY: by this function's contract.
    unsafe { time.write(shown) };
    0
}
