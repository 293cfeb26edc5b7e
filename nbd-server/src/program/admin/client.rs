//! Asking a running server, or the store itself when none runs.
//!
//! Must never know: what the answers mean.

use super::{ANSWER_MAX_BYTES, Answer, Request, execute};
use crate::program::address::check_socket_path;
use crate::program::cli::StoreArgs;
use crate::program::failure::{Failure, Result};
use crate::program::store;
use ashlar_engine::reactor::{Reactor, ReactorOptions};
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A server that says nothing for this long is not going to.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Carries `request` out, by the server that runs or else on the store directly.
pub(crate) fn ask(place: &StoreArgs, request: &Request) -> Result<Value> {
    if let Some(admin) = &place.admin {
        return match ask_server(admin, request)? {
            Some(report) => Ok(report),
            None => Err(no_server(admin).hint("name the socket of a running one with --admin")),
        };
    }
    let path = place.store();
    let socket = store::admin_socket(&path);
    if let Some(report) = ask_server(&socket, request)? {
        return Ok(report);
    }
    if matches!(request, Request::Scrub {}) {
        let check =
            format!("verify a store that is not in use by `ashlar check {}`", path.display());
        return Err(no_server(&socket).hint(check));
    }
    if matches!(request, Request::Status {}) {
        let start = format!("start one with `ashlar serve --store {}`", path.display());
        return Err(no_server(&socket).hint(format!("{start}, or name its socket with --admin")));
    }
    ask_store(&path, request)
}

fn no_server(socket: &Path) -> Failure {
    Failure::new(format!("no server runs at {}", socket.display()))
}

/// Nothing if no server runs there.
fn ask_server(socket: &Path, request: &Request) -> Result<Option<Value>> {
    if check_socket_path(socket).is_err() {
        return Ok(None);
    }
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            return Ok(None);
        }
        Err(error) => {
            let what = format!("cannot ask the server at {}: {error}", socket.display());
            return Err(Failure::new(what));
        }
    };
    match exchange(stream, request) {
        Ok(Answer::Done(report)) => Ok(Some(report)),
        Ok(Answer::Error(refusal)) => Err(Failure::new(refusal.message)),
        // The socket of a server that was killed just now still takes connections for a moment.
        Err(error)
            if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) =>
        {
            Ok(None)
        }
        Err(error) => {
            let what = format!("the server at {} did not answer: {error}", socket.display());
            Err(Failure::new(what).hint("look at its log"))
        }
    }
}

fn exchange(mut stream: UnixStream, request: &Request) -> std::io::Result<Answer> {
    // A scrub says nothing until it has read everything; a server that ends closes the socket.
    let silence = (!matches!(request, Request::Scrub {})).then_some(SILENCE_MAX);
    stream.set_read_timeout(silence)?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    let most = ANSWER_MAX_BYTES as u64;
    BufReader::new(stream.take(most)).read_until(b'\n', &mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}

fn ask_store(path: &Path, request: &Request) -> Result<Value> {
    let read_only = matches!(request, Request::VolumeList {} | Request::VolumeShow { .. });
    let reactor = Reactor::new(ReactorOptions::default())?;
    let asked = reactor.block_on(async {
        let store = store::open(&reactor, path, read_only).await?;
        let report = execute(&store, None, request.clone()).await?;
        if !read_only {
            store.close().await?;
        }
        Ok(report)
    });
    reactor.shutdown();
    asked
}
