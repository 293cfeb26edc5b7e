//! The handshake, fixed newstyle: from the greeting to a chosen export.
//!
//! Keeps no bytes: the caller shows it what has arrived and drops what it consumed, so a client
//! costs its parse buffer and nothing else. Output is gathered up to
//! [`HANDSHAKE_OUTPUT_BYTES`] and then handed back to be sent.
//! Must never know: sockets, deadlines.

use super::options::{ContextQueries, InfoRequest, string};
use super::request::Parameters;
use super::wire::{self, Reader, export_flag, handshake_flag, info, option, option_reply};
use super::{Framing, reply};
use crate::export::{Export, ExportInfo, Exports};
use crate::limits::{
    HANDSHAKE_OUTPUT_BYTES, LIST_PAGE_MAX, OPTION_DATA_MAX_BYTES, OPTION_DRAIN_MAX_BYTES,
    OPTIONS_MAX, PAYLOAD_MAX_BYTES,
};
use ashlar_engine::{ErrorKind, Result};
use std::rc::Rc;

const OPTION_HEADER_BYTES: usize = 16;
/// Zeroes after EXPORT_NAME for clients that did not ask to go without.
const EXPORT_NAME_PADDING_BYTES: usize = 124;
const ALLOCATION_CONTEXT: &str = "base:allocation";

/// Why every option is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// As many clients are connected as may be.
    TooManyConnections,
    /// The server is going away.
    Shutdown,
}

/// What the caller does next. Output that was gathered is to be sent in every case.
#[derive(Debug)]
pub enum Progress<E> {
    /// Receive more, then call again.
    NeedBytes,
    /// Call again when the output is sent.
    Transmit,
    /// The handshake is done; unconsumed bytes belong to the transmission phase.
    Session(Negotiated<E>),
    /// Close the connection.
    Close,
}

/// A chosen export and how the client wants to talk about it.
#[derive(Debug)]
pub struct Negotiated<E> {
    /// What is served.
    pub export: Rc<E>,
    /// What requests are checked against.
    pub parameters: Parameters,
}

#[derive(Debug)]
enum State {
    Greet,
    ClientFlags,
    Options,
    /// Throws an oversized option away.
    Drain {
        option: u32,
        left: u64,
    },
    /// Lists the exports after this name.
    List {
        after: String,
    },
}

/// One client's handshake.
#[derive(Debug)]
pub struct Handshake {
    state: State,
    denial: Option<Denial>,
    read_only: bool,
    fixed: bool,
    no_zeroes: bool,
    framing: Framing,
    /// Export for which `base:allocation` is selected.
    context: Option<String>,
    options: u32,
    drained_bytes: u64,
}

/// What became of one option.
enum Outcome<E> {
    Answered,
    Session(Negotiated<E>),
    Close,
}

impl Handshake {
    /// Options that were taken.
    #[must_use]
    pub fn options(&self) -> u32 {
        self.options
    }

    /// A handshake that has not begun. `read_only` serves every export so.
    #[must_use]
    pub fn new(read_only: bool, denial: Option<Denial>) -> Handshake {
        Handshake {
            state: State::Greet,
            denial,
            read_only,
            fixed: false,
            no_zeroes: false,
            framing: Framing::Simple,
            context: None,
            options: 0,
            drained_bytes: 0,
        }
    }

    /// Takes what it can from the front of `input` and appends to `output`. Returns the bytes
    /// consumed, and what to do next.
    pub fn advance<X: Exports>(
        &mut self,
        input: &[u8],
        exports: &X,
        output: &mut Vec<u8>,
    ) -> (usize, Progress<X::Export>) {
        let mut consumed = 0;
        loop {
            if output.len() >= HANDSHAKE_OUTPUT_BYTES {
                return (consumed, Progress::Transmit);
            }
            let (used, progress) = self.step(&input[consumed..], exports, output);
            consumed += used;
            if let Some(progress) = progress {
                return (consumed, progress);
            }
        }
    }

    fn step<X: Exports>(
        &mut self,
        input: &[u8],
        exports: &X,
        output: &mut Vec<u8>,
    ) -> (usize, Option<Progress<X::Export>>) {
        match &mut self.state {
            State::Greet => {
                let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
                output.extend_from_slice(&wire::GREETING_MAGIC.to_be_bytes());
                output.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
                output.extend_from_slice(&flags.to_be_bytes());
                self.state = State::ClientFlags;
                (0, None)
            }
            State::ClientFlags => match Reader(input).u32() {
                None => (0, Some(Progress::NeedBytes)),
                Some(flags) => (4, self.accept_flags(flags)),
            },
            State::Drain { option, left } => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= used as u64;
                if *left > 0 {
                    return (used, Some(Progress::NeedBytes));
                }
                let option = *option;
                self.state = State::Options;
                refuse(output, option, option_reply::ERR_TOO_BIG, "option data too long");
                (used, None)
            }
            State::List { after } => {
                let page = exports.list(after, LIST_PAGE_MAX);
                let last = page.len() < LIST_PAGE_MAX;
                list_page(output, &page);
                match page.into_iter().next_back() {
                    Some(name) if !last => *after = name,
                    _ => {
                        self.state = State::Options;
                        reply::option(output, option::LIST, option_reply::ACK, &[]);
                    }
                }
                (0, None)
            }
            State::Options => self.take_option(input, exports, output),
        }
    }

    /// (proto: "Client flags") The server MUST drop the connection on a flag it does not know.
    fn accept_flags<E>(&mut self, flags: u32) -> Option<Progress<E>> {
        let fixed = u32::from(handshake_flag::FIXED_NEWSTYLE);
        let no_zeroes = u32::from(handshake_flag::NO_ZEROES);
        if flags & !(fixed | no_zeroes) != 0 {
            return Some(Progress::Close);
        }
        self.fixed = flags & fixed != 0;
        self.no_zeroes = flags & no_zeroes != 0;
        self.state = State::Options;
        None
    }

    fn take_option<X: Exports>(
        &mut self,
        input: &[u8],
        exports: &X,
        output: &mut Vec<u8>,
    ) -> (usize, Option<Progress<X::Export>>) {
        let mut reader = Reader(input);
        let (Some(magic), Some(option), Some(length)) = (reader.u64(), reader.u32(), reader.u32())
        else {
            return (0, Some(Progress::NeedBytes));
        };
        // Clients that are not "fixed" may send this option only (proto: "Newstyle negotiation").
        let plain = option == option::EXPORT_NAME;
        if magic != wire::OPTION_MAGIC || (!self.fixed && !plain) || self.options >= OPTIONS_MAX {
            return (OPTION_HEADER_BYTES, Some(Progress::Close));
        }
        if length as usize > OPTION_DATA_MAX_BYTES {
            self.drained_bytes += u64::from(length);
            // EXPORT_NAME cannot be answered with an error.
            if plain || self.drained_bytes > OPTION_DRAIN_MAX_BYTES {
                return (OPTION_HEADER_BYTES, Some(Progress::Close));
            }
            self.state = State::Drain { option, left: u64::from(length) };
            return (OPTION_HEADER_BYTES, None);
        }
        let Some(data) = reader.bytes(length as usize) else {
            return (0, Some(Progress::NeedBytes));
        };
        self.options += 1;
        let progress = match self.answer(option, data, exports, output) {
            Outcome::Answered => None,
            Outcome::Session(negotiated) => Some(Progress::Session(negotiated)),
            Outcome::Close => Some(Progress::Close),
        };
        (OPTION_HEADER_BYTES + length as usize, progress)
    }

    fn answer<X: Exports>(
        &mut self,
        option: u32,
        data: &[u8],
        exports: &X,
        output: &mut Vec<u8>,
    ) -> Outcome<X::Export> {
        if option == option::ABORT {
            // MUST be acknowledged; data SHOULD be ignored.
            reply::option(output, option, option_reply::ACK, &[]);
            return Outcome::Close;
        }
        if option == option::EXPORT_NAME {
            return self.export_name(data, exports, output);
        }
        if let Some(denial) = self.denial {
            let (kind, message) = match denial {
                Denial::TooManyConnections => (option_reply::ERR_POLICY, "too many connections"),
                Denial::Shutdown => (option_reply::ERR_SHUTDOWN, "the server is shutting down"),
            };
            refuse(output, option, kind, message);
            return Outcome::Answered;
        }
        match option {
            option::INFO | option::GO => return self.info(option, data, exports, output),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.contexts(option, data, exports, output);
            }
            option::LIST
            | option::STARTTLS
            | option::STRUCTURED_REPLY
            | option::EXTENDED_HEADERS => {
                self.bare_option(option, data, output);
            }
            _ => refuse(output, option, option_reply::ERR_UNSUP, "unknown option"),
        }
        Outcome::Answered
    }

    /// Options without data; the server SHOULD reject those that bring some.
    fn bare_option(&mut self, option: u32, data: &[u8], output: &mut Vec<u8>) {
        if !data.is_empty() {
            return refuse(output, option, option_reply::ERR_INVALID, "option takes no data");
        }
        match option {
            option::LIST => {
                self.state = State::List { after: String::new() };
                return;
            }
            // (proto: "NOTLS mode") MUST be refused as unsupported.
            option::STARTTLS => {
                return refuse(output, option, option_reply::ERR_UNSUP, "no TLS here");
            }
            // Extended headers take precedence and cannot be taken back.
            option::STRUCTURED_REPLY if self.framing == Framing::Extended => {
                let message = "extended headers are in use";
                return refuse(output, option, option_reply::ERR_EXT_HEADER_REQD, message);
            }
            option::STRUCTURED_REPLY => self.framing = Framing::Structured,
            _ => self.framing = Framing::Extended,
        }
        reply::option(output, option, option_reply::ACK, &[]);
    }

    /// (proto: "NBD_OPT_EXPORT_NAME") No error can be returned: the server MUST close instead.
    fn export_name<X: Exports>(
        &mut self,
        data: &[u8],
        exports: &X,
        output: &mut Vec<u8>,
    ) -> Outcome<X::Export> {
        let opened = match string(data) {
            Some(name) if self.denial.is_none() && self.framing != Framing::Extended => {
                exports.open(name)
            }
            _ => return Outcome::Close,
        };
        let Ok(export) = opened else { return Outcome::Close };
        let parameters = self.parameters(&export.info());
        output.extend_from_slice(&parameters.size_bytes.to_be_bytes());
        output.extend_from_slice(&parameters.flags.to_be_bytes());
        if !self.no_zeroes {
            output.extend_from_slice(&[0; EXPORT_NAME_PADDING_BYTES]);
        }
        Outcome::Session(Negotiated { export, parameters })
    }

    fn info<X: Exports>(
        &mut self,
        option: u32,
        data: &[u8],
        exports: &X,
        output: &mut Vec<u8>,
    ) -> Outcome<X::Export> {
        let Some(request) = InfoRequest::decode(data) else {
            refuse(output, option, option_reply::ERR_INVALID, "malformed option data");
            return Outcome::Answered;
        };
        let Some(export) = open_or_refuse(output, option, exports.open(request.name)) else {
            return Outcome::Answered;
        };
        let found = export.info();
        let parameters = self.parameters(&found);
        let mut send = |kind: u16, fields: &[&[u8]]| {
            let payload = [&kind.to_be_bytes()[..], &fields.concat()].concat();
            reply::option(output, option, option_reply::INFO, &payload);
        };
        let (size, flags) = (parameters.size_bytes.to_be_bytes(), parameters.flags.to_be_bytes());
        send(info::EXPORT, &[&size, &flags]);
        if request.asks_for(info::NAME) {
            send(info::NAME, &[found.name.as_bytes()]);
        }
        if request.asks_for(info::DESCRIPTION) && !found.description.is_empty() {
            send(info::DESCRIPTION, &[reply::clip(&found.description).as_bytes()]);
        }
        if request.asks_for(info::BLOCK_SIZE) {
            let preferred = found.preferred_block_bytes.to_be_bytes();
            send(
                info::BLOCK_SIZE,
                &[&1u32.to_be_bytes(), &preferred, &PAYLOAD_MAX_BYTES.to_be_bytes()],
            );
        }
        reply::option(output, option, option_reply::ACK, &[]);
        if option == option::INFO {
            return Outcome::Answered;
        }
        Outcome::Session(Negotiated { export, parameters })
    }

    fn contexts<X: Exports>(
        &mut self,
        option: u32,
        data: &[u8],
        exports: &X,
        output: &mut Vec<u8>,
    ) {
        let set = option == option::SET_META_CONTEXT;
        if set {
            // Replaces what was selected, also when it fails.
            self.context = None;
        }
        if self.framing == Framing::Simple {
            let message = "structured replies come first";
            return refuse(output, option, option_reply::ERR_INVALID, message);
        }
        let Some(queries) = ContextQueries::decode(data) else {
            let message = "malformed option data";
            return refuse(output, option, option_reply::ERR_INVALID, message);
        };
        let Some(export) = open_or_refuse(output, option, exports.open(queries.name)) else {
            return;
        };
        // (proto: "The base: metadata namespace") "base:" and no query at all are wildcards for
        // LIST and select nothing for SET; unknown names MUST be ignored.
        let chosen = queries
            .any(|query| query == ALLOCATION_CONTEXT.as_bytes() || (!set && query == b"base:"))
            || (!set && queries.count == 0);
        if chosen {
            let id = if set { reply::ALLOCATION_CONTEXT_ID } else { 0 };
            let payload = [&id.to_be_bytes()[..], ALLOCATION_CONTEXT.as_bytes()].concat();
            reply::option(output, option, option_reply::META_CONTEXT, &payload);
        }
        if set && chosen {
            self.context = Some(export.info().name);
        }
        reply::option(output, option, option_reply::ACK, &[]);
    }

    /// What the client is promised. Everything set here is honoured by the session.
    fn parameters(&self, found: &ExportInfo) -> Parameters {
        let read_only = self.read_only || found.read_only;
        let mut flags = export_flag::HAS_FLAGS
            | export_flag::SEND_FLUSH
            | export_flag::SEND_FUA
            | export_flag::CAN_MULTI_CONN
            | export_flag::SEND_CACHE;
        if read_only {
            flags |= export_flag::READ_ONLY;
        } else {
            flags |= export_flag::SEND_TRIM
                | export_flag::SEND_WRITE_ZEROES
                | export_flag::SEND_FAST_ZERO;
        }
        // MUST be clear unless replies can be fragmented at all.
        if self.framing != Framing::Simple {
            flags |= export_flag::SEND_DF;
        }
        Parameters {
            framing: self.framing,
            size_bytes: found.size_bytes,
            flags,
            read_only,
            // Only for the export that the contexts were selected for.
            block_status: self.context.as_deref() == Some(found.name.as_str()),
        }
    }
}

fn refuse(output: &mut Vec<u8>, option: u32, kind: u32, message: &str) {
    reply::option(output, option, kind, reply::clip(message).as_bytes());
}

fn open_or_refuse<E>(output: &mut Vec<u8>, option: u32, opened: Result<Rc<E>>) -> Option<Rc<E>> {
    match opened {
        Ok(export) => Some(export),
        Err(error) => {
            let kind = match error.kind() {
                ErrorKind::NotFound => option_reply::ERR_UNKNOWN,
                ErrorKind::Closed => option_reply::ERR_SHUTDOWN,
                _ => option_reply::ERR_POLICY,
            };
            refuse(output, option, kind, &error.to_string());
            None
        }
    }
}

fn list_page(output: &mut Vec<u8>, names: &[String]) {
    for name in names {
        let length = u32::try_from(name.len()).expect("invariant: names are at most 4 KiB");
        let payload = [&length.to_be_bytes()[..], name.as_bytes()].concat();
        reply::option(output, option::LIST, option_reply::SERVER, &payload);
    }
}
