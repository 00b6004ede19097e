//! Calls third-party decoders so that a panic of theirs becomes an error text and prints nothing: the crates are young, and
//! the input may be hostile.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Calls under way on this thread.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// Counts a call for as long as it lives.
struct Inside;

impl Inside {
    fn enter() -> Inside {
        static INSTALLED: Once = Once::new();
        // The previous panic hook still sees all other panics; so does a hook that is set later, which runs first.
        INSTALLED.call_once(|| {
            let previous = take_hook();
            set_hook(Box::new(move |panic| {
                if !INSIDE.try_with(|inside| inside.get() > 0).unwrap_or(false) {
                    previous(panic);
                }
            }));
        });
        INSIDE.set(INSIDE.get() + 1);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(INSIDE.get() - 1);
    }
}

/// Runs a decoder; a panic inside it becomes an error, and is not printed.
pub(super) fn guarded<T, E: From<String>>(decode: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let inside = Inside::enter();
    let outcome = catch_unwind(AssertUnwindSafe(decode));
    drop(inside);
    outcome.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("damaged image: the decoder gave up ({})", said.unwrap_or("no reason given")).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// The panic hook is global to a process, so this test starts a process of its own.
    #[test]
    fn a_panic_of_a_decoder_is_an_error_and_not_on_the_screen() {
        const NAME: &str = "decode::guard::tests::a_panic_of_a_decoder_is_an_error_and_not_on_the_screen";
        const INSIDE_TEST: &str = "FEEDLINE_TEST_GUARD";
        if std::env::var_os(INSIDE_TEST).is_none() {
            let test = std::env::current_exe().unwrap();
            let out = Command::new(test).args(["--exact", NAME, "--nocapture"]).env(INSIDE_TEST, "1").output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{said}");
            assert!(!said.contains("of a decoder"), "{said}");
            // The hook still sees other panics, also on a thread inside a guarded call.
            assert_eq!(said.matches("seen by the hook: ").count(), 2, "{said}");
            return;
        }
        set_hook(Box::new(|panic| eprintln!("seen by the hook: {panic}")));
        for _ in 0..2 {
            let result: Result<(), String> = guarded(|| guarded(|| panic!("a panic of a decoder")));
            assert_eq!(result.unwrap_err(), "damaged image: the decoder gave up (a panic of a decoder)");
            let result: Result<(), String> = guarded(|| std::panic::panic_any(3));
            assert!(result.unwrap_err().contains("no reason given"));
            assert!(catch_unwind(|| panic!("a panic of somebody else")).is_err());
        }
    }
}
