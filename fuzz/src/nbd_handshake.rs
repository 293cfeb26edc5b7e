//! Handshake bytes, cut at random: replies are well-formed, memory is bounded, and how the bytes
//! were cut makes no difference.

use ashlar_engine::buffer::{BufferPool, PoolOptions};
use ashlar_nbd_server::limits::{HANDSHAKE_MEMORY_MAX_BYTES, PARSE_BUFFER_MIN_BYTES};
use ashlar_nbd_server::memory::{MemoryExport, MemoryExports};
use ashlar_nbd_server::proto::{Denial, Handshake, Parameters, Progress};

/// What a handshake came to.
#[derive(Debug, PartialEq, Eq)]
struct Result {
    output: Vec<u8>,
    consumed: usize,
    parameters: Option<Parameters>,
    closed: bool,
}

thread_local! {
    /// Nothing of a run is left in it.
    static EXPORTS: MemoryExports = exports();
}

fn exports() -> MemoryExports {
    let pool = BufferPool::new(PoolOptions { arena_bytes: 0, ..PoolOptions::default() });
    let export = |name: &str, size| MemoryExport::new(name, size, pool.clone());
    let many = (0..200).map(|number| export(&format!("{number:0200}"), 512));
    let named = [export("vm0", 1 << 20), export("frozen", u64::MAX).read_only()];
    MemoryExports::new(many.chain(named))
}

/// The first byte says how to cut the rest.
pub fn target(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let denial = (cut == 255).then_some(Denial::Shutdown);
    EXPORTS.with(|exports| {
        let whole = run(stream, stream.len().max(1), denial, exports);
        let pieces = run(stream, usize::from(cut % 40) + 1, denial, exports);
        assert_eq!(whole, pieces);
        check_output(&whole);
    });
}

fn run(stream: &[u8], step: usize, denial: Option<Denial>, exports: &MemoryExports) -> Result {
    let mut handshake = Handshake::new(false, denial);
    let mut result = Result { output: Vec::new(), consumed: 0, parameters: None, closed: false };
    let mut arrived = 0;
    loop {
        let window = arrived.min(result.consumed + PARSE_BUFFER_MIN_BYTES);
        let mut output = Vec::new();
        let input = &stream[result.consumed..window];
        let (used, progress) = handshake.advance(input, exports, &mut output);
        assert!(output.len() + PARSE_BUFFER_MIN_BYTES <= HANDSHAKE_MEMORY_MAX_BYTES);
        result.output.extend(output);
        result.consumed += used;
        match progress {
            Progress::Transmit => {}
            Progress::Session(negotiated) => {
                result.parameters = Some(negotiated.parameters);
                return result;
            }
            Progress::Close => {
                result.closed = true;
                return result;
            }
            Progress::NeedBytes if arrived == stream.len() && window == arrived => {
                return result;
            }
            Progress::NeedBytes => {
                let full = window - result.consumed == PARSE_BUFFER_MIN_BYTES;
                assert!(!full, "an option that never fits the buffer");
                arrived = (arrived + step).min(stream.len());
            }
        }
    }
}

/// Greeting, then option replies, then possibly the answer to EXPORT_NAME.
fn check_output(result: &Result) {
    let mut rest = result.output.strip_prefix(b"NBDMAGICIHAVEOPT\0\x03").expect("greeting");
    let magic = 0x0003_e889_0455_65a9u64.to_be_bytes();
    while let Some(reply) = rest.strip_prefix(&magic) {
        let word = |at: usize| u32::from_be_bytes(reply[at..at + 4].try_into().expect("4 bytes"));
        let (kind, length) = (word(4), word(8) as usize);
        assert!((1..=4).contains(&kind) || (1..=10).contains(&(kind ^ (1 << 31))), "{kind:#x}");
        assert!(length <= 4096 + 8);
        rest = &reply[12 + length..];
    }
    let padded = rest.len() == 10 || rest.len() == 10 + 124;
    assert!(rest.is_empty() || (padded && result.parameters.is_some()));
}
