//! Random requests against a vector, one after another and many at once.
//!
//! At once: every byte must hold what one of the writes that covered it wrote, or what it held
//! before; and a write of one piece is atomic, so a run covered by two writes is all one or all
//! the other where nothing else interferes (checked in the conformance suite).

use crate::client::{Client, FLUSH, READ, STATUS, STYLES, Style, TRIM, WRITE, ZEROES};
use crate::harness::TestServer;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::{DeviceOptions, Reactor};
use ashlar_nbd_server::export::Exports;
use ashlar_nbd_server::memory::{MemoryExport, MemoryExports};
use ashlar_nbd_server::{ServerOptions, VolumeExports, conformance};
use proptest::prelude::*;

const SIZE: usize = 3 << 20;

#[derive(Clone, Debug)]
enum Op {
    Write { offset: usize, length: usize, byte: u8 },
    Zeroes { offset: usize, length: usize, keep: bool },
    Trim { offset: usize, length: usize },
    Read { offset: usize, length: usize },
    Status { offset: usize, length: usize },
    Flush,
}

fn range() -> impl Strategy<Value = (usize, usize)> {
    let near = |at: usize| at.saturating_sub(3)..at + 4;
    let edge = prop_oneof![near(4), near(4096), near(65536), near(1 << 20), near(2 << 20), 0..SIZE];
    let length = prop_oneof![1..20usize, near(4096), near(32768), near(1 << 20), 1..SIZE];
    (edge, length).prop_map(|(offset, length)| (offset, length.min(SIZE - offset).max(1)))
}

fn op() -> impl Strategy<Value = Op> {
    let write = (range(), 1..=255u8).prop_map(|((offset, length), byte)| Op::Write {
        offset,
        length,
        byte,
    });
    let zeroes = (range(), any::<bool>()).prop_map(|((offset, length), keep)| Op::Zeroes {
        offset,
        length,
        keep,
    });
    prop_oneof![
        4 => write,
        1 => zeroes,
        1 => range().prop_map(|(offset, length)| Op::Trim { offset, length }),
        3 => range().prop_map(|(offset, length)| Op::Read { offset, length }),
        1 => range().prop_map(|(offset, length)| Op::Status { offset, length }),
        1 => Just(Op::Flush),
    ]
}

fn server() -> TestServer {
    TestServer::with(ServerOptions::default(), |reactor| {
        MemoryExports::new([MemoryExport::new("vm0", SIZE as u64, reactor.pool().clone())])
    })
}

fn check(client: &mut Client, model: &mut [u8], op: &Op) -> Result<(), TestCaseError> {
    match *op {
        Op::Write { offset, length, byte } => {
            prop_assert_eq!(client.write(offset as u64, &vec![byte; length]), 0);
            model[offset..offset + length].fill(byte);
        }
        Op::Zeroes { offset, length, keep } => {
            let flags = if keep { 2 } else { 0 };
            prop_assert_eq!(client.call((ZEROES, flags), offset as u64, length as u64).errno, 0);
            model[offset..offset + length].fill(0);
        }
        Op::Trim { offset, length } => {
            // This export zeroes what is trimmed, which it need not.
            prop_assert_eq!(client.call((TRIM, 0), offset as u64, length as u64).errno, 0);
            model[offset..offset + length].fill(0);
        }
        Op::Read { offset, length } => {
            let data = client.read(offset as u64, length as u64);
            prop_assert!(data.as_deref() == Ok(&model[offset..offset + length]), "read differs");
        }
        Op::Status { offset, length } if client.style != Style::Simple => {
            let extents = client.call((STATUS, 0), offset as u64, length as u64).extents;
            let mut at = offset;
            for (bytes, status) in extents {
                let end = at + bytes as usize;
                let zero = model[at..end].iter().all(|byte| *byte == 0);
                prop_assert!(zero || status & 2 == 0);
                at = end;
            }
            prop_assert!(at > offset && at <= offset + length);
        }
        Op::Status { .. } => {}
        Op::Flush => prop_assert_eq!(client.call((FLUSH, 0), 0, 0).errno, 0),
    }
    Ok(())
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn one_after_another(ops in proptest::collection::vec((op(), 0..3usize), 1..40)) {
        let server = server();
        let mut clients = STYLES.map(|style| Client::open(&server.socket, "vm0", style));
        let mut model = vec![0; SIZE];
        for (op, client) in &ops {
            check(&mut clients[*client], &mut model, op)?;
        }
        let all = clients[0].read(0, SIZE as u64);
        prop_assert!(all.as_deref() == Ok(&model[..]), "contents differ");
    }

    #[test]
    fn many_at_once(
        rounds in proptest::collection::vec(
            proptest::collection::vec((range(), 0..3usize), 2..12), 1..4)
    ) {
        let server = server();
        let mut clients = STYLES.map(|style| Client::open(&server.socket, "vm0", style));
        let mut before = vec![0u8; SIZE];
        for round in &rounds {
            for (number, ((offset, length), client)) in round.iter().enumerate() {
                let data = vec![number as u8 + 1; *length];
                clients[*client].start((WRITE, 0), *offset as u64, *length as u64, &data);
                clients[*client].start((READ, 0), *offset as u64, 1, &[]);
            }
            for (_, client) in round {
                for _ in 0..2 {
                    prop_assert_eq!(clients[*client].reply().errno, 0);
                }
            }
            let after = clients[0].read(0, SIZE as u64).expect("read");
            let mut allowed: Vec<u32> = vec![0; SIZE];
            for (number, ((offset, length), _)) in round.iter().enumerate() {
                let covered = &mut allowed[*offset..offset + length];
                covered.iter_mut().for_each(|set| *set |= 1 << (number + 1));
            }
            for at in 0..SIZE {
                let fits = match allowed[at] {
                    0 => after[at] == before[at],
                    set => set & (1 << after[at]) != 0,
                };
                prop_assert!(fits, "byte {at} is {}", after[at]);
            }
            before = after;
        }
    }
}

#[test]
fn memory_export_conforms() {
    let reactor = ashlar_engine::reactor::Reactor::new(Default::default()).expect("reactor");
    let pool = reactor.pool().clone();
    let export = MemoryExport::new("vm0", conformance::SIZE_MIN_BYTES + 777, pool.clone());
    reactor.block_on(conformance::run(&export, &pool));
}

#[test]
fn a_volume_conforms() {
    const STORE_BYTES: u64 = 64 << 20;
    let path = std::env::temp_dir().join(format!("ashlar-conform-{}", std::process::id()));
    let reactor = Reactor::new(Default::default()).expect("reactor");
    reactor.block_on(async {
        let options =
            DeviceOptions { create_size_bytes: Some(STORE_BYTES), ..DeviceOptions::default() };
        let device = reactor.open_device(&path, &options).expect("device");
        LocalStore::format(&reactor, &*device, STORE_BYTES).await.expect("format");
        let store = LocalStore::open(&reactor, device, false).await.expect("open");
        store.create_volume("vm0", conformance::SIZE_MIN_BYTES + 512).await.expect("create");
        let exports = VolumeExports::new(store.clone(), false);
        let export = exports.open("vm0").expect("volume");
        conformance::run(&*export, reactor.pool()).await;
        store.close().await.expect("close");
    });
    reactor.shutdown();
    std::fs::remove_file(&path).expect("removed");
}
