//! SIGTERM and SIGINT: the first asks for an orderly end, the second ends the process at once.
//!
//! Must never know: what an orderly end is.

use crate::program::failure::{Failure, Result};
use ashlar_engine::reactor::Reactor;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Caught;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

/// Exit code of a process that was told twice.
const EXIT_CODE_TWICE: i32 = 1;

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    waker: Option<Waker>,
}

/// Tells when to stop.
#[derive(Debug)]
pub(crate) struct Signals {
    state: Arc<Mutex<State>>,
}

impl Signals {
    /// Catches signals from now on, on a thread of its own that does nothing but wait for them.
    pub(crate) fn watch(reactor: &Reactor) -> Result<Signals> {
        let refused = |error| Failure::new(format!("cannot catch signals: {error}"));
        let mut caught = Caught::new([SIGTERM, SIGINT]).map_err(refused)?;
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, remote) = (Arc::clone(&state), reactor.remote());
        let wait = move || {
            for (count, _) in caught.forever().enumerate() {
                let shared = Arc::clone(&shared);
                if count > 0 || !remote.post(move || stop(&shared)) {
                    signal_hook::low_level::exit(EXIT_CODE_TWICE);
                }
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(refused)?;
        Ok(Signals { state })
    }

    /// Waits for the first signal.
    pub(crate) async fn stopped(&self) {
        poll_fn(|context| {
            let mut state = self.state.lock().expect("invariant: nobody panics holding it");
            if state.stopped {
                return Poll::Ready(());
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

fn stop(state: &Mutex<State>) {
    let waker = {
        let mut state = state.lock().expect("invariant: nobody panics holding it");
        state.stopped = true;
        state.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}
