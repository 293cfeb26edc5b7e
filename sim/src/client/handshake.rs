//! Haggling: from the greeting to an export.
//!
//! Must never know: requests.

use super::replies::{Incoming, u16_at, u32_at, u64_at};
use super::{Style, receive_some, send_all};
use ashlar_engine::reactor::{Reactor, Stream};
use ashlar_nbd_server::proto::wire::{
    GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, handshake_flag, info, option, option_reply,
};
use std::io;

/// Bit that all refusals have.
const REFUSED: u32 = 1 << 31;

/// Opens the export; its size, or `None` if the server refused.
pub(super) async fn haggle(
    reactor: &Reactor,
    stream: &dyn Stream,
    incoming: &mut Incoming,
    name: &str,
    style: Style,
) -> io::Result<Option<u64>> {
    let greeting = exactly(reactor, stream, incoming, 18).await?;
    let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    if u64_at(&greeting, 0) != GREETING_MAGIC || u64_at(&greeting, 8) != OPTION_MAGIC {
        return Err(garbage("a greeting that is none"));
    }
    send_all(stream, u32::from(flags).to_be_bytes().to_vec()).await?;
    let framing = match style {
        Style::Simple => None,
        Style::Structured => Some(option::STRUCTURED_REPLY),
        Style::Extended => Some(option::EXTENDED_HEADERS),
    };
    if let Some(framing) = framing {
        if ask(reactor, stream, incoming, framing, &[]).await?.is_none() {
            return Ok(None);
        }
        let mut contexts = counted(name);
        contexts.extend(1u32.to_be_bytes());
        contexts.extend(counted("base:allocation"));
        let answer = ask(reactor, stream, incoming, option::SET_META_CONTEXT, &contexts).await?;
        if answer.is_none() {
            return Ok(None);
        }
    }
    let mut wanted = counted(name);
    wanted.extend(0u16.to_be_bytes());
    let Some(infos) = ask(reactor, stream, incoming, option::GO, &wanted).await? else {
        return Ok(None);
    };
    let export = infos.iter().find(|data| data.len() == 12 && u16_at(data, 0) == info::EXPORT);
    let export = export.ok_or_else(|| garbage("no size of the export"))?;
    Ok(Some(u64_at(export, 2)))
}

fn counted(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn garbage(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server sent {what}"))
}

async fn exactly(
    reactor: &Reactor,
    stream: &dyn Stream,
    incoming: &mut Incoming,
    count: usize,
) -> io::Result<Vec<u8>> {
    loop {
        if let Some(bytes) = incoming.take(count) {
            return Ok(bytes.to_vec());
        }
        if receive_some(reactor, stream, incoming).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// One option: the data of all replies before the final one, or `None` if it was refused.
async fn ask(
    reactor: &Reactor,
    stream: &dyn Stream,
    incoming: &mut Incoming,
    option: u32,
    data: &[u8],
) -> io::Result<Option<Vec<Vec<u8>>>> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    send_all(stream, bytes).await?;
    let mut found = Vec::new();
    loop {
        let head = exactly(reactor, stream, incoming, 20).await?;
        if u64_at(&head, 0) != OPTION_REPLY_MAGIC || u32_at(&head, 8) != option {
            return Err(garbage("a reply to another option"));
        }
        let (kind, length) = (u32_at(&head, 12), u32_at(&head, 16) as usize);
        let data = exactly(reactor, stream, incoming, length).await?;
        match kind {
            option_reply::ACK => return Ok(Some(found)),
            kind if kind & REFUSED != 0 => return Ok(None),
            _ => found.push(data),
        }
    }
}
