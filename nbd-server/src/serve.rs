//! Requests carried out: the export is asked, and its answer leaves a reply.
//!
//! The common ones, a read or a write in one piece, are a few words in the connection's table
//! while the export works on them. Each of the others, and those that have to wait before the
//! export takes them, is a local task.
//! Invariant: every request taken in leaves exactly one reply, and what it was charged is
//! released once: a write's bytes when it is done, a read's when they are sent.
//! Must never know: how bytes arrive or leave.

use crate::export::{Export, ReadData, errno_of};
use crate::flow::LongRead;
use crate::limits::EXTENTS_MAX;
use crate::outgoing::Batch;
use crate::proto::reply::{self, To};
use crate::proto::{Command, Framing, Refusal, Request, WritePiece, piece_limit};
use crate::session::Connection;
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::Answers;
use ashlar_engine::{Error, Result};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

type Shared<E> = Rc<Connection<E>>;

impl<E> Connection<E> {
    fn to(&self, request: &Request) -> To {
        To { framing: self.parameters.framing, cookie: request.cookie, offset: request.offset }
    }

    /// Leaves the last part of a reply, to which `bytes` are charged.
    fn finish(&self, bytes: usize, add: impl FnOnce(&mut Batch)) {
        self.outgoing.push(|batch| {
            add(batch);
            batch.requests += 1;
            batch.bytes += bytes;
        });
    }

    fn finish_status(&self, request: &Request, result: Result<()>) {
        let to = self.to(request);
        match result {
            Ok(()) => self.finish(0, |batch| batch.head(|out| reply::done(out, to))),
            Err(error) => self.finish_error(to, 0, &error),
        }
    }

    /// The end of a read of one piece.
    fn finish_read(&self, request: &Request, whole: bool, result: Result<ReadData>) {
        let to = self.to(request);
        let bytes = request.length as usize;
        match result {
            Ok(data) => self.finish(bytes, |batch| {
                self.shared.count_read(request.length);
                add_data(batch, self, to, request.offset, bytes as u32, data, true, whole);
            }),
            Err(error) => self.finish_error(to, bytes, &error),
        }
    }

    /// The end of a write of one piece.
    fn finish_write(&self, request: &Request, bytes: usize, result: Result<()>) {
        self.flow.release(bytes);
        self.finish_status(request, result);
    }

    fn finish_error(&self, to: To, bytes: usize, error: &Error) {
        let errno = errno_of(error);
        // The store reports what is wrong with it; here every request could be a line.
        tracing::debug!(%error, offset = to.offset, "request failed");
        self.shared.count_error();
        self.finish(bytes, |batch| {
            batch.head(|out| reply::error(out, to, errno, &error.to_string()));
        });
    }
}

/// A request in one piece that the export works on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    request: Request,
    bytes: usize,
}

impl<E: Export> Answers for Connection<E> {
    fn answer(&self, tag: u64, result: Result<Vec<Buffer>>) {
        let Pending { request, bytes } = self.pending.borrow_mut().remove(tag as usize);
        match request.command {
            Command::Read { whole } => {
                self.finish_read(&request, whole, result.map(ReadData::from));
            }
            _ => self.finish_write(&request, bytes, result.map(drop)),
        }
    }
}

impl<E: Export> Connection<E> {
    /// Has the export begin a request that is done in [`Answers::answer`], by its tag.
    fn begin<T>(
        self: &Rc<Self>,
        request: &Request,
        bytes: usize,
        start: impl FnOnce(Rc<dyn Answers>, u64) -> std::result::Result<(), T>,
    ) -> std::result::Result<(), T> {
        let tag = self.pending.borrow_mut().insert(Pending { request: *request, bytes });
        let started = start(Rc::clone(self) as Rc<dyn Answers>, tag as u64);
        if started.is_err() {
            self.pending.borrow_mut().remove(tag);
        }
        started
    }
}

/// Answers a request that was not even tried.
pub(crate) fn refuse<E: Export>(connection: &Shared<E>, refusal: &Refusal) {
    let Refusal { cookie, offset, errno, reason, .. } = *refusal;
    let to = To { framing: connection.parameters.framing, cookie, offset };
    connection.flow.begin_request();
    connection.shared.count_error();
    connection.finish(0, |batch| batch.head(|out| reply::error(out, to, errno, reason)));
}

/// Starts a request that has no payload.
pub(crate) fn start<E: Export>(connection: &Shared<E>, request: Request) {
    connection.flow.begin_request();
    connection.shared.count_request();
    let to = connection.to(&request);
    if let Command::Read { whole } = request.command
        && (1..=piece_limit(request.offset, request.length)).contains(&request.length)
    {
        return start_read(connection, request, whole);
    }
    let task = Rc::clone(connection);
    let reactor = &connection.reactor;
    match request.command {
        Command::Read { .. } if request.length == 0 => {
            connection.finish(0, |batch| batch.head(|out| reply::read_done(out, to)));
        }
        Command::Read { .. } if connection.parameters.framing == Framing::Simple => {
            reactor.spawn(read_gathered(task, request)).detach();
        }
        Command::Read { .. } => reactor.spawn(read_chunked(task, request)).detach(),
        Command::Flush => reactor.spawn(flush(task, request)).detach(),
        Command::BlockStatus { one } => {
            reactor.spawn(block_status(task, request, one)).detach();
        }
        _ if request.length == 0 => connection.finish_status(&request, Ok(())),
        _ => reactor.spawn(change(task, request)).detach(),
    }
}

/// Starts a read of one piece.
fn start_read<E: Export>(connection: &Shared<E>, request: Request, whole: bool) {
    let Request { offset, length, .. } = request;
    connection.flow.charge(length as usize);
    let started = connection.begin(&request, length as usize, |answers, tag| {
        match connection.export.start_read(offset, length as u32, answers, tag) {
            true => Ok(()),
            false => Err(()),
        }
    });
    if started.is_err() {
        connection.reactor.spawn(read(Rc::clone(connection), request, whole)).detach();
    }
}

/// Pieces of the write that is being received.
#[derive(Debug, Default)]
pub(crate) struct LongWrite {
    current: Option<Rc<Pieces>>,
}

#[derive(Debug)]
struct Pieces {
    running: Cell<u32>,
    complete: Cell<bool>,
    error: RefCell<Option<Error>>,
}

/// Starts a piece of a write.
pub(crate) fn start_write<E: Export>(
    connection: &Shared<E>,
    piece: WritePiece,
    long: &mut LongWrite,
) {
    let first = piece.offset == piece.request.offset;
    let bytes = piece.data.len();
    connection.flow.charge(bytes);
    connection.shared.count_write(bytes as u64);
    if first {
        connection.shared.count_request();
    }
    let task = Rc::clone(connection);
    if first && piece.last {
        connection.flow.begin_request();
        let WritePiece { request, offset, data, .. } = piece;
        let started = connection.begin(&request, bytes, |answers, tag| {
            connection.export.start_write(offset, data, answers, tag)
        });
        if let Err(data) = started {
            connection.reactor.spawn(write(task, request, data)).detach();
        }
        return;
    }
    let pieces = long.current.get_or_insert_with(|| {
        Rc::new(Pieces {
            running: Cell::new(0),
            complete: Cell::new(false),
            error: RefCell::new(None),
        })
    });
    let pieces = Rc::clone(pieces);
    pieces.running.set(pieces.running.get() + 1);
    if piece.last {
        // Counted when it is whole: what a client never finishes to send is never answered.
        connection.flow.begin_request();
        pieces.complete.set(true);
        long.current = None;
    }
    connection.reactor.spawn(write_piece(task, piece, pieces)).detach();
}

/// A write of one piece.
async fn write<E: Export>(connection: Shared<E>, request: Request, data: Buffer) {
    let bytes = data.len();
    let result = connection.export.write(request.offset, data).await;
    connection.finish_write(&request, bytes, result);
}

async fn write_piece<E: Export>(connection: Shared<E>, piece: WritePiece, pieces: Rc<Pieces>) {
    let WritePiece { request, offset, data, .. } = piece;
    let bytes = data.len();
    let result = connection.export.write(offset, data).await;
    connection.flow.release(bytes);
    if let Err(error) = result {
        pieces.error.borrow_mut().get_or_insert(error);
    }
    pieces.running.set(pieces.running.get() - 1);
    if pieces.complete.get() && pieces.running.get() == 0 {
        let result = pieces.error.borrow_mut().take().map_or(Ok(()), Err);
        connection.finish_status(&request, result);
    }
}

/// A read of one piece.
async fn read<E: Export>(connection: Shared<E>, request: Request, whole: bool) {
    let result = connection.export.read(request.offset, request.length as u32).await;
    connection.finish_read(&request, whole, result);
}

/// A long read with chunks: each piece is sent as soon as it is read.
async fn read_chunked<E: Export>(connection: Shared<E>, request: Request) {
    let to = connection.to(&request);
    let end = request.offset + request.length;
    let mut at = request.offset;
    let mut long = LongRead::begin(&connection.flow);
    loop {
        let length = (end - at).min(piece_limit(at, request.length)) as u32;
        let bytes = length as usize;
        connection.charge(&mut long, bytes).await;
        if connection.outgoing.is_broken() {
            return connection.finish(bytes, |_| {});
        }
        let last = at + u64::from(length) == end;
        let data = match connection.export.read(at, length).await {
            Ok(data) => data,
            Err(error) => return connection.finish_error(to, bytes, &error),
        };
        connection.outgoing.push(|batch| {
            add_data(batch, &connection, to, at, length, data, last, false);
            connection.shared.count_read(u64::from(length));
            batch.bytes += bytes;
            batch.requests += u32::from(last);
        });
        if last {
            return;
        }
        at += u64::from(length);
    }
}

/// A long read without chunks: nothing is sent before everything is read, for a simple reply
/// cannot fail half-way (proto: "NBD_CMD_READ").
async fn read_gathered<E: Export>(connection: Shared<E>, request: Request) {
    let to = connection.to(&request);
    let total = request.length as usize;
    let mut long = LongRead::begin(&connection.flow);
    connection.charge(&mut long, total).await;
    let end = request.offset + request.length;
    let mut at = request.offset;
    let mut pieces = Vec::new();
    while at < end {
        let length = (end - at).min(piece_limit(at, request.length)) as u32;
        match connection.export.read(at, length).await {
            Ok(data) => pieces.push((data, length)),
            Err(error) => return connection.finish_error(to, total, &error),
        }
        at += u64::from(length);
    }
    connection.shared.count_read(request.length);
    connection.finish(total, |batch| {
        batch.head(|out| reply::data(out, to, request.offset, 0, true));
        for (data, length) in pieces {
            add_payload(batch, &connection, data, length);
        }
    });
}

#[allow(clippy::too_many_arguments)]
fn add_data<E>(
    batch: &mut Batch,
    connection: &Connection<E>,
    to: To,
    at: u64,
    length: u32,
    data: ReadData,
    last: bool,
    whole: bool,
) {
    if matches!(data, ReadData::Zeroes) && to.framing != Framing::Simple && !whole {
        return batch.head(|out| reply::hole(out, to, at, length, last));
    }
    batch.head(|out| reply::data(out, to, at, length, last));
    add_payload(batch, connection, data, length);
}

fn add_payload<E>(batch: &mut Batch, connection: &Connection<E>, data: ReadData, length: u32) {
    let mut added = 0;
    let mut add = |buffer: Buffer| {
        added += buffer.len();
        batch.payload(buffer);
    };
    match data {
        ReadData::Whole(buffer) => add(buffer),
        ReadData::Pieces(buffers) => buffers.into_iter().for_each(add),
        ReadData::Zeroes => {
            let mut buffer = connection.reactor.pool().allocate(length as usize);
            buffer.fill(0);
            add(buffer);
        }
    }
    // A reply of any other length would make the client take data for headers.
    assert!(added == length as usize, "an export read {added} bytes instead of {length}");
}

async fn flush<E: Export>(connection: Shared<E>, request: Request) {
    let result = connection.export.flush().await;
    connection.finish_status(&request, result);
}

async fn change<E: Export>(connection: Shared<E>, request: Request) {
    let Request { offset, length, .. } = request;
    let export = &connection.export;
    let result = match request.command {
        Command::WriteZeroes { allocate, .. } => {
            export.write_zeroes(offset, length, allocate).await
        }
        Command::Trim => export.trim(offset, length).await,
        _ => export.cache(offset, length).await,
    };
    connection.finish_status(&request, result);
}

async fn block_status<E: Export>(connection: Shared<E>, request: Request, one: bool) {
    let to = connection.to(&request);
    let extents_max = if one { 1 } else { EXTENTS_MAX };
    let Request { offset, length, .. } = request;
    match connection.export.block_status(offset, length, extents_max).await {
        Ok(mut extents) => {
            extents.truncate(extents_max);
            assert!(!extents.is_empty(), "an export has a status everywhere");
            connection.finish(0, |batch| {
                batch.head(|out| reply::block_status(out, to, &extents));
            });
        }
        Err(error) => connection.finish_error(to, 0, &error),
    }
}
