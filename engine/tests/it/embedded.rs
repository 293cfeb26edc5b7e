//! Goal: the library keeps its promises to many callers at once, on a real file.
//! Method: stores in a scratch directory, tokio tasks and threads as callers.

use crate::reactor::Scratch;
use ashlar_engine::store::Mapping;
use ashlar_engine::{ErrorKind, Store, StoreOptions, Volume, blocking};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

const STORE: u64 = 128 << 20;

async fn fresh(scratch: &Scratch) -> (Store, Volume) {
    let options = StoreOptions::new(scratch.file("store")).create(STORE);
    let store = Store::open(options).await.expect("opens");
    let volume = store.create_volume("vm0", 64 << 20).await.expect("creates");
    (store, volume)
}

/// Writers of single bytes into the same few blocks: each byte must end up as its writer left it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_writes_to_one_block_lose_nothing() {
    let scratch = Scratch::new();
    let (store, volume) = fresh(&scratch).await;
    let mut tasks = Vec::new();
    for i in 0..500u64 {
        let volume = volume.clone();
        // 37 does not divide the block: ranges cross blocks.
        let write = async move { volume.write(i * 37, &[(i % 251) as u8 + 1; 37]).await };
        tasks.push(tokio::spawn(write));
        if i % 10 == 0 {
            // A whole block of another region keeps the fast path busy beside them.
            let (volume, at) = (store.volume("vm0").await.expect("there"), (i + 100) * 4096);
            tasks.push(tokio::spawn(async move { volume.write(at, &[7; 8192]).await }));
        }
    }
    for task in tasks {
        task.await.expect("no panic").expect("writes");
    }
    let bytes = volume.read(0, 500 * 37).await.expect("reads");
    for (at, byte) in bytes.iter().enumerate() {
        assert_eq!(u64::from(*byte), (at as u64 / 37) % 251 + 1, "byte {at}");
    }
    store.close().await.expect("closes");
}

/// A whole-block write that races with a partial one in the same block: one of the two orders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_and_partial_writes_to_one_block_are_ordered() {
    let scratch = Scratch::new();
    let (store, volume) = fresh(&scratch).await;
    for round in 0..200u8 {
        let (a, b) = (volume.clone(), volume.clone());
        let whole = tokio::spawn(async move { a.write(0, &[round; 4096]).await });
        let part = tokio::spawn(async move { b.write(100, &[255; 10]).await });
        whole.await.expect("no panic").expect("writes");
        part.await.expect("no panic").expect("writes");
        let block = volume.read(0, 4096).await.expect("reads");
        let outside = block.iter().enumerate().filter(|(i, _)| !(100..110).contains(i));
        assert!(outside.clone().all(|(_, byte)| *byte == round), "round {round}");
        let inside = &block[100..110];
        assert!(inside == [255; 10] || inside == [round; 10], "round {round}: {inside:?}");
    }
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_dropped_future_is_carried_out() {
    let scratch = Scratch::new();
    let (store, volume) = fresh(&scratch).await;
    for i in 0..64u64 {
        let mut write = Box::pin(volume.write(i * 4096, &[9; 4096]));
        // One poll hands it over; then nobody waits for it.
        poll_fn(|context| {
            assert!(write.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(write);
        let mut read = Box::pin(volume.read(i * 4096, 4096));
        poll_fn(|context| {
            let _ = read.as_mut().poll(context);
            Poll::Ready(())
        })
        .await;
    }
    volume.write(1 << 20, &[1]).await.expect("the store still works");
    store.close().await.expect("closes");
    let store = Store::open(StoreOptions::new(scratch.file("store"))).await.expect("reopens");
    let volume = store.volume("vm0").await.expect("there");
    assert_eq!(volume.read(0, 64 * 4096).await.expect("reads"), [9; 64 * 4096]);
    store.close().await.expect("closes");
}

#[test]
fn blocking_callers_on_many_threads() {
    let scratch = Scratch::new();
    let options = StoreOptions::new(scratch.file("store")).create(STORE);
    let store = blocking::Store::open(options.clone()).expect("opens");
    let busy = blocking::Store::open(options).expect_err("a second opening is refused");
    assert_eq!(busy.kind(), ErrorKind::Busy);
    let volume = store.create_volume("vm0", 3 * 512).expect("a volume of three sectors");
    assert_eq!((volume.size(), volume.name()), (1536, "vm0"));
    volume.write(1000, &[5; 536]).expect("up to the end");
    assert_eq!(volume.write(1000, &[5; 537]).expect_err("past it").kind(), ErrorKind::Invalid);
    assert_eq!(volume.read(990, 20).expect("reads"), [[0; 10], [5; 10]].concat());
    let big = store.create_volume("vm1", 64 << 20).expect("creates");
    std::thread::scope(|scope| {
        for i in 0..8u64 {
            let big = big.clone();
            scope.spawn(move || {
                let data: Vec<u8> = (0..3_000_000u64).map(|j| (j * (i + 3)) as u8).collect();
                big.write(i * 3_000_001, &data).expect("writes");
                assert_eq!(big.read(i * 3_000_001, data.len()).expect("reads"), data);
            });
        }
    });
    big.write_zeroes(100, 1 << 20, false).expect("zeroes");
    assert!(big.read(100, 1 << 20).expect("reads").iter().all(|byte| *byte == 0));
    let extents = big.block_status(0, 2 << 20, 10).expect("status");
    let mappings: Vec<_> = extents.iter().map(|extent| extent.mapping).collect();
    assert_eq!(mappings, [Mapping::Data, Mapping::Hole, Mapping::Data]);
    store.delete_volume("vm1").expect("deletes");
    assert_eq!(big.read(0, 1).expect_err("gone").kind(), ErrorKind::NotFound);
    assert_eq!(store.volumes().expect("lists").len(), 1);
    let other = store.clone();
    store.close().expect("closes");
    assert_eq!(other.status().expect_err("closed").kind(), ErrorKind::Closed);
}

#[test]
fn read_only_stores_refuse_and_close() {
    let scratch = Scratch::new();
    let options = StoreOptions::new(scratch.file("store")).create(STORE);
    let store = blocking::Store::open(options).expect("opens");
    let volume = store.create_volume("vm0", 1 << 20).expect("creates");
    volume.write(5, &[6; 7]).expect("writes");
    store.close().expect("closes");
    let options = StoreOptions::new(scratch.file("store")).read_only();
    let store = blocking::Store::open(options).expect("opens");
    let volume = store.volume("vm0").expect("there");
    assert_eq!(volume.read(5, 7).expect("reads"), [6; 7]);
    assert_eq!(volume.write(0, &[1]).expect_err("refused").kind(), ErrorKind::Invalid);
    assert_eq!(volume.trim(0, 8192).expect_err("refused").kind(), ErrorKind::Invalid);
    assert!(store.create_volume("vm1", 512).is_err() && store.delete_volume("vm0").is_err());
    store.close().expect("closes");
}

/// Futures polled by hand, without any runtime, and dropped stores.
#[test]
fn stores_close_when_the_last_handle_is_dropped() {
    let scratch = Scratch::new();
    let options = StoreOptions::new(scratch.file("store")).create(STORE);
    drop(blocking::Store::open(options.clone()).expect("opens"));
    // Closing goes on in the background: the lock comes free.
    let reopened = (0..10_000).find_map(|_| {
        std::thread::yield_now();
        blocking::Store::open(options.clone()).ok()
    });
    reopened.expect("the lock is given back").close().expect("closes");
    let mut future = pin!(Store::open(StoreOptions::new(scratch.file("missing"))));
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    let error = loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            break result.expect_err("there is no such store");
        }
        std::thread::yield_now();
    };
    assert_eq!(error.kind(), ErrorKind::Device);
}
