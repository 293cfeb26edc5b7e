//! The admin socket, on the same reactor as everything else.
//!
//! Must never know: what the requests do.

use super::{Answer, CLIENTS_MAX, Executor, IDLE_MAX, LINE_MAX_BYTES, Refusal, Request};
use crate::program::address::check_socket_path;
use crate::program::failure::{Failure, Result};
use ashlar_engine::reactor::{
    Address, Listener, Message, Part, Reactor, ReceiveBuffers, Stream, Task,
};
use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Owner only.
const SOCKET_MODE: u32 = 0o600;
/// Pause after accept failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Listens at `path`: only the owner may connect. The socket of a dead server is replaced.
pub(crate) fn listen(reactor: &Reactor, path: &Path) -> Result<Rc<dyn Listener>> {
    let hint = "choose another place with --admin";
    check_socket_path(path).map_err(|why| Failure::new(why).hint(hint))?;
    let listener = reactor.listen(&Address::Unix(path.to_owned())).map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::AddrInUse => "another server uses it".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(format!("cannot listen at the admin socket {}: {why}", path.display()))
            .hint(hint)
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(
        |error| Failure::new(format!("cannot protect {}: {error}", path.display())).hint(hint),
    )?;
    Ok(listener)
}

/// Answers clients of `listener` until the task is dropped.
pub(crate) fn serve(
    listener: Rc<dyn Listener>,
    reactor: &Reactor,
    executor: Rc<dyn Executor>,
) -> Task<()> {
    let (clients, spawner) = (Rc::new(Cell::new(0)), reactor.clone());
    let accept = async move {
        loop {
            let Ok(stream) = listener.accept().await else {
                spawner.sleep(ACCEPT_RETRY).await;
                continue;
            };
            let Some(place) = Place::take(&clients) else {
                stream.shutdown();
                continue;
            };
            let (own, executor) = (spawner.clone(), Rc::clone(&executor));
            let session = async move {
                let _place = place;
                talk(stream, &own, &*executor).await;
            };
            spawner.spawn(session).detach();
        }
    };
    reactor.spawn(accept)
}

/// A client's place among [`CLIENTS_MAX`].
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(clients: &Rc<Cell<usize>>) -> Option<Place> {
        (clients.get() < CLIENTS_MAX).then(|| {
            clients.set(clients.get() + 1);
            Place(Rc::clone(clients))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Answers one client, line by line, until it goes, idles, or says too much at once.
async fn talk(stream: Rc<dyn Stream>, reactor: &Reactor, executor: &dyn Executor) {
    let mut line = Vec::new();
    let mut buffer = reactor.pool().allocate(LINE_MAX_BYTES);
    loop {
        let buffers = ReceiveBuffers { first: buffer, first_filled: 0, second: None };
        let Some((received, buffers)) = reactor.within(IDLE_MAX, stream.receive(buffers)).await
        else {
            return stream.shutdown();
        };
        let count = match received {
            Ok(count) if count > 0 => count,
            _ => return stream.shutdown(),
        };
        line.extend_from_slice(&buffers.first[..count]);
        buffer = buffers.first;
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let rest = line.split_off(end + 1);
            let answer = answer(&line[..end], executor).await;
            line = rest;
            if !send(&*stream, reactor, &answer).await {
                return stream.shutdown();
            }
        }
        if line.len() > LINE_MAX_BYTES {
            let message = format!("a request has at most {LINE_MAX_BYTES} bytes");
            let answer = Answer::Error(Refusal { kind: "invalid".into(), message });
            send(&*stream, reactor, &answer).await;
            return stream.shutdown();
        }
    }
}

async fn answer(line: &[u8], executor: &dyn Executor) -> Answer {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => {
            let message = format!("the request is not understood: {error}");
            return Answer::Error(Refusal { kind: "invalid".into(), message });
        }
    };
    match executor.execute(request).await {
        Ok(report) => Answer::Done(report),
        Err(error) => Answer::Error(error.into()),
    }
}

async fn send(stream: &dyn Stream, reactor: &Reactor, answer: &Answer) -> bool {
    let mut head = serde_json::to_vec(answer).expect("invariant: answers are plain data");
    head.push(b'\n');
    let parts = vec![Part::Head(head.len())];
    let sent = reactor.within(IDLE_MAX, stream.send(Message { head, parts })).await;
    sent.is_some_and(|(result, _)| result.is_ok())
}
