//! Replies taken apart.
//!
//! Must never know: how bytes arrive.

use super::{Answer, Client, Pending, Style, command};
use ashlar_nbd_server::proto::wire::{
    EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk,
};

/// Bytes that arrived and were not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    at: usize,
}

impl Incoming {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next `count` bytes, if they are there.
    pub(super) fn take(&mut self, count: usize) -> Option<&[u8]> {
        let found = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(found)
    }

    fn peek(&self, count: usize) -> Option<&[u8]> {
        self.bytes.get(self.at..self.at.checked_add(count)?)
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// A chunk of a structured or extended reply, or a whole simple one.
struct Head {
    bytes: usize,
    flags: u16,
    kind: u16,
    cookie: u64,
    length: usize,
}

/// Takes every whole reply.
pub(super) fn take(client: &Client, incoming: &mut Incoming) -> Result<(), String> {
    loop {
        let found = match incoming.peek(4).map(|magic| u32_at(magic, 0)) {
            None => return Ok(()),
            Some(SIMPLE_REPLY_MAGIC) => take_simple(client, incoming)?,
            Some(STRUCTURED_REPLY_MAGIC) if client.style == Style::Structured => {
                take_chunk(client, incoming)?
            }
            Some(EXTENDED_REPLY_MAGIC) if client.style == Style::Extended => {
                take_chunk(client, incoming)?
            }
            Some(magic) => return Err(format!("a reply of magic {magic:#x}")),
        };
        if !found {
            return Ok(());
        }
    }
}

fn take_simple(client: &Client, incoming: &mut Incoming) -> Result<bool, String> {
    let Some(head) = incoming.peek(16) else { return Ok(false) };
    let (error, cookie) = (u32_at(head, 4), u64_at(head, 8));
    let mut all = client.pending.borrow_mut();
    let pending = waiting(all.get_mut(&cookie), cookie)?;
    let is_read = pending.request.command == command::READ;
    if client.style == Style::Extended || (is_read && client.style != Style::Simple) {
        return Err("a simple reply where another was agreed on".into());
    }
    let length = if is_read && error == 0 { pending.request.length as usize } else { 0 };
    let Some(bytes) = incoming.take(16 + length) else { return Ok(false) };
    pending.answer = Some(match (error, is_read) {
        (0, true) => Answer::Data(bytes[16..].to_vec()),
        (0, false) => Answer::Done,
        (error, _) => Answer::Error(error),
    });
    wake(pending);
    Ok(true)
}

fn take_chunk(client: &Client, incoming: &mut Incoming) -> Result<bool, String> {
    let extended = client.style == Style::Extended;
    let bytes = if extended { 32 } else { 20 };
    let Some(head) = incoming.peek(bytes) else { return Ok(false) };
    let length = if extended { u64_at(head, 24) as usize } else { u32_at(head, 16) as usize };
    let (flags, kind, cookie) = (u16_at(head, 4), u16_at(head, 6), u64_at(head, 8));
    let head = Head { bytes, flags, kind, cookie, length };
    let Some(found) = incoming.take(head.bytes + head.length) else { return Ok(false) };
    let payload = &found[head.bytes..];
    let mut all = client.pending.borrow_mut();
    let pending = waiting(all.get_mut(&head.cookie), head.cookie)?;
    match head.kind {
        chunk::NONE => {}
        chunk::OFFSET_DATA if payload.len() > 8 => {
            add_data(pending, u64_at(payload, 0), &payload[8..])?
        }
        chunk::OFFSET_HOLE if payload.len() == 12 => {
            let zeroes = vec![0; u32_at(payload, 8) as usize];
            add_data(pending, u64_at(payload, 0), &zeroes)?;
        }
        chunk::BLOCK_STATUS => {
            let extents = payload.get(4..).unwrap_or(&[]).chunks_exact(8);
            pending.extents.extend(extents.map(|e| (u64::from(u32_at(e, 0)), u32_at(e, 4))));
        }
        chunk::BLOCK_STATUS_EXT => {
            let extents = payload.get(8..).unwrap_or(&[]).chunks_exact(16);
            pending.extents.extend(extents.map(|e| (u64_at(e, 0), u64_at(e, 8) as u32)));
        }
        chunk::ERROR | chunk::ERROR_OFFSET => pending.error = u32_at(payload, 0).max(1),
        kind => return Err(format!("a chunk of kind {kind} with {} bytes", payload.len())),
    }
    if head.flags & chunk::FLAG_DONE != 0 {
        finish(pending)?;
    }
    Ok(true)
}

fn waiting(pending: Option<&mut Pending>, cookie: u64) -> Result<&mut Pending, String> {
    match pending {
        Some(pending) if pending.answer.is_none() => Ok(pending),
        Some(_) => Err(format!("a second answer to cookie {cookie}")),
        None => Err(format!("an answer to cookie {cookie}, which nobody waits for")),
    }
}

fn add_data(pending: &mut Pending, offset: u64, bytes: &[u8]) -> Result<(), String> {
    let request = pending.request;
    let at = offset.checked_sub(request.offset).filter(|_| request.command == command::READ);
    let at = at.filter(|at| at + bytes.len() as u64 <= request.length);
    let Some(at) = at else { return Err(format!("data at {offset} for {request:?}")) };
    pending.data.resize(request.length as usize, 0);
    pending.data[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    pending.covered += bytes.len() as u64;
    Ok(())
}

fn finish(pending: &mut Pending) -> Result<(), String> {
    let request = pending.request;
    let answer = match (pending.error, request.command) {
        (0, command::READ) if pending.covered != request.length => {
            return Err(format!("{} bytes for {request:?}", pending.covered));
        }
        (0, command::READ) => Answer::Data(std::mem::take(&mut pending.data)),
        (0, command::BLOCK_STATUS) if pending.extents.is_empty() => {
            return Err(format!("no extents for {request:?}"));
        }
        (0, command::BLOCK_STATUS) => Answer::Extents(std::mem::take(&mut pending.extents)),
        (0, _) => Answer::Done,
        (error, _) => Answer::Error(error),
    };
    pending.answer = Some(answer);
    wake(pending);
    Ok(())
}

fn wake(pending: &mut Pending) {
    if let Some(waker) = pending.waker.take() {
        waker.wake();
    }
}
