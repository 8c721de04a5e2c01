//! Ends the process on SIGTERM and SIGINT.
//!
//! The first process of a container gets no default action for signals: without this, every stop of
//! the sample would take the whole grace period. The only unsafe code of the sample: `signal` and
//! `_exit` of the C library, whose types are these on every Linux; the handler calls nothing that is
//! not allowed in a signal handler.
#![allow(unsafe_code)]

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(code: i32) -> !;
}

extern "C" fn end(_number: i32) {
    // SAFETY: `_exit` is async-signal-safe and takes any code.
    unsafe { _exit(0) }
}

/// From now on both signals end the process with success.
pub fn end_on_termination() {
    for number in [SIGINT, SIGTERM] {
        // SAFETY: the handler has the type that `signal` wants and lives for ever.
        unsafe { signal(number, end) };
    }
}
