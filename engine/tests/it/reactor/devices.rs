//! Goal: devices pass the conformance suite, lock, and say plainly what is wrong with them.

use super::{Scratch, reactor};
use ashlar_engine::ErrorKind;
use ashlar_engine::buffer::PoolOptions;
use ashlar_engine::reactor::{
    BlockDevice, DeviceOp, DeviceOptions, Reactor, ReactorOptions, conformance,
};
use std::future::poll_fn;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

fn create(size_bytes: u64) -> DeviceOptions {
    DeviceOptions { create_size_bytes: Some(size_bytes), ..DeviceOptions::default() }
}

fn conforms(reactor: &Reactor, path: &Path, options: &DeviceOptions) {
    let device = reactor.open_device(path, options).expect("opens");
    reactor.block_on(conformance::check_all(&*device, reactor.pool(), 1));
    drop(device);
    assert_eq!(reactor.pool().in_use_bytes(), 0, "buffers leaked");
    reactor.shutdown();
}

#[test]
fn a_file_conforms() {
    let scratch = Scratch::new();
    let options = create(conformance::SIZE_MIN_BYTES);
    conforms(&reactor(), &scratch.file("disk"), &options);
}

#[test]
fn a_file_conforms_through_the_page_cache() {
    let scratch = Scratch::new();
    let options = DeviceOptions { direct: false, ..create(conformance::SIZE_MIN_BYTES) };
    conforms(&reactor(), &scratch.file("disk"), &options);
}

#[test]
fn a_file_conforms_without_an_arena() {
    let scratch = Scratch::new();
    let pool = PoolOptions { arena_bytes: 0, ..PoolOptions::default() };
    let reactor = Reactor::new(ReactorOptions { pool, ..ReactorOptions::default() });
    let options = create(conformance::SIZE_MIN_BYTES);
    conforms(&reactor.expect("starts"), &scratch.file("disk"), &options);
}

#[test]
fn a_file_in_memory_conforms() {
    let memory = Path::new("/dev/shm");
    assert!(memory.is_dir(), "Linux has it");
    let path = memory.join(format!("conformance-{}", std::process::id()));
    let options = create(conformance::SIZE_MIN_BYTES);
    let result = std::panic::catch_unwind(|| conforms(&reactor(), &path, &options));
    std::fs::remove_file(&path).expect("was created");
    result.expect("conforms");
}

#[cfg(feature = "tokio-uring")]
#[test]
fn a_file_on_the_second_backend_conforms() {
    use ashlar_engine::buffer::BufferPool;
    use ashlar_engine::reactor::TokioDevice;
    let scratch = Scratch::new();
    let pool = BufferPool::default();
    tokio_uring::start(async {
        for direct in [true, false] {
            let options = DeviceOptions { direct, ..create(conformance::SIZE_MIN_BYTES) };
            let device = TokioDevice::open(scratch.file("disk"), &options).expect("opens");
            conformance::check_all(&device, &pool, 2).await;
        }
    });
    assert_eq!(pool.in_use_bytes(), 0, "buffers leaked");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let scratch = Scratch::new();
    let reactor = reactor();
    let error = |path: &Path, options: &DeviceOptions| {
        let error = match reactor.open_device(path, options) {
            Ok(_) => panic!("{} opened", path.display()),
            Err(error) => error,
        };
        (error.kind(), error.to_string())
    };
    let plain = DeviceOptions::default();
    let says = |found: (ErrorKind, String), kind, words: &str| {
        assert!(found.0 == kind && found.1.contains(words), "{found:?}");
    };
    says(error(&scratch.file("none"), &plain), ErrorKind::Device, "does not exist");
    says(error(&scratch.path, &plain), ErrorKind::Device, "is a directory");
    says(error(Path::new("/dev/null"), &plain), ErrorKind::Device, "not a file or block device");
    std::fs::write(scratch.file("small"), b"tiny").expect("written");
    says(error(&scratch.file("small"), &plain), ErrorKind::Device, "too small: 0 bytes");
    says(error(&scratch.file("small"), &create(8192)), ErrorKind::Device, "needs 8192");
    says(error(&scratch.file("odd"), &create(1000)), ErrorKind::Invalid, "multiple of 4096");
    let read_only = DeviceOptions { read_only: true, ..create(8192) };
    says(error(&scratch.file("new"), &read_only), ErrorKind::Invalid, "read-only");
    assert!(!scratch.file("new").exists() && !scratch.file("odd").exists());
}

/// Programs that other tests start hold all files of this process for a moment, until they run.
fn open_when_free(reactor: &Reactor, path: &Path, options: &DeviceOptions) -> Rc<dyn BlockDevice> {
    for _ in 0..1000 {
        match reactor.open_device(path, options) {
            Err(error) if error.kind() == ErrorKind::Busy => {
                reactor.block_on(reactor.sleep(Duration::from_millis(1)));
            }
            opened => return opened.expect("opens"),
        }
    }
    panic!("{path:?} is not free again");
}

#[test]
fn a_device_in_use_is_busy_until_it_is_dropped() {
    let scratch = Scratch::new();
    let reactor = reactor();
    let path = scratch.file("disk");
    let device = reactor.open_device(&path, &create(8192)).expect("opens");
    assert_eq!(device.size_bytes(), 8192);
    let error = reactor.open_device(&path, &DeviceOptions::default()).err().expect("is locked");
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    let reading = DeviceOptions { read_only: true, ..DeviceOptions::default() };
    assert!(reactor.open_device(&path, &reading).is_err(), "a writer keeps readers away");
    drop(device);
    let first = open_when_free(&reactor, &path, &reading);
    let second = reactor.open_device(&path, &reading).expect("readers share");
    reactor.block_on(async {
        second.submit(
            1,
            DeviceOp::Write {
                offset_bytes: 0,
                buffers: vec![reactor.pool().allocate(4096)],
                sync: true,
            },
        );
        let mut done = Vec::new();
        poll_fn(|context| second.poll_completions(context, &mut done)).await;
        let error = done[0].result.as_ref().expect_err("is read-only");
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    });
    drop((first, second));
}

#[test]
fn a_dropped_device_still_carries_out_its_writes() {
    let scratch = Scratch::new();
    let reactor = reactor();
    let path = scratch.file("disk");
    for round in 0..20_u8 {
        let device = reactor.open_device(&path, &create(1 << 20)).expect("opens");
        let mut buffer = reactor.pool().allocate(1 << 20);
        buffer.fill(round);
        let buffers = vec![buffer];
        device.submit(0, DeviceOp::Write { offset_bytes: 0, buffers, sync: round % 2 == 0 });
        drop(device);
        // Its lock is gone when its last operation is.
        reactor.block_on(async {
            while reactor.pool().in_use_bytes() > 0 {
                reactor.yield_now().await;
            }
        });
        let content = std::fs::read(&path).expect("is there");
        assert!(content.iter().all(|&byte| byte == round), "round {round}");
    }
}

#[test]
fn a_file_cut_short_is_an_error_not_zeros() {
    let scratch = Scratch::new();
    let reactor = reactor();
    let path = scratch.file("disk");
    let device: Rc<dyn BlockDevice> = reactor.open_device(&path, &create(1 << 20)).expect("opens");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opens");
    file.set_len(4096 * 3).expect("cut");
    reactor.block_on(async {
        let buffer = reactor.pool().allocate(4096 * 8);
        device.submit(0, DeviceOp::Read { offset_bytes: 0, buffer });
        let mut done = Vec::new();
        poll_fn(|context| device.poll_completions(context, &mut done)).await;
        let error = done[0].result.as_ref().expect_err("half of it is missing");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    });
}

/// Far more at once than either queue of the ring holds, and nobody reaps in between.
#[test]
fn no_operation_is_lost_when_the_queues_are_full() {
    const OPS: u64 = 12_000;
    let scratch = Scratch::new();
    let reactor = reactor();
    let device = reactor.open_device(scratch.file("disk"), &create(1 << 20)).expect("opens");
    let mut seen = vec![0; OPS as usize];
    reactor.block_on(async {
        for token in 0..OPS {
            let buffer = reactor.pool().allocate(4096);
            device.submit(token, DeviceOp::Read { offset_bytes: token % 256 * 4096, buffer });
        }
        let mut done = Vec::new();
        for _ in 0..OPS {
            if done.is_empty() {
                poll_fn(|context| device.poll_completions(context, &mut done)).await;
            }
            let completion = done.pop().expect("one landed");
            completion.result.expect("read");
            seen[completion.token as usize] += 1;
        }
    });
    assert!(seen.iter().all(|&times| times == 1));
    reactor.shutdown();
}

/// Detaches its loop device when dropped.
struct LoopDevice(String);

impl LoopDevice {
    /// `None` where this user may not make one.
    fn attach(file: &Path) -> Option<LoopDevice> {
        let made = std::process::Command::new("losetup").arg("-f").arg("--show").arg(file).output();
        let name = String::from_utf8(made.ok().filter(|made| made.status.success())?.stdout);
        Some(LoopDevice(name.expect("is a path").trim().to_owned()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_conforms_and_locks() {
    let scratch = Scratch::new();
    let file = std::fs::File::create(scratch.file("image")).expect("created");
    file.set_len(conformance::SIZE_MIN_BYTES).expect("sized");
    let Some(device) = LoopDevice::attach(&scratch.file("image")) else {
        println!("no loop device here: not run");
        return;
    };
    let reactor = reactor();
    let path = Path::new(&device.0);
    let held = reactor.open_device(path, &DeviceOptions::default()).expect("opens");
    assert_eq!(held.size_bytes(), conformance::SIZE_MIN_BYTES);
    let error = reactor.open_device(path, &DeviceOptions::default()).err().expect("is held");
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    drop(held);
    let error = reactor.open_device(path, &create(1 << 30)).err().expect("cannot grow");
    assert!(error.to_string().contains("too small"), "{error}");
    conforms(&reactor, path, &DeviceOptions::default());
}

#[test]
fn shutting_down_waits_for_the_disk() {
    let scratch = Scratch::new();
    let path = scratch.file("disk");
    let reactor = reactor();
    let device = reactor.open_device(&path, &create(4 << 20)).expect("opens");
    for token in 0..64 {
        let mut buffer = reactor.pool().allocate(65536);
        buffer.fill(7);
        let offset_bytes = token * 65536;
        device.submit(token, DeviceOp::Write { offset_bytes, buffers: vec![buffer], sync: true });
    }
    reactor.shutdown();
    assert!(std::fs::read(&path).expect("is there").iter().all(|&byte| byte == 7));
    device.submit(99, DeviceOp::Sync);
    let mut done = Vec::new();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(device.poll_completions(&mut context, &mut done).is_ready());
    assert_eq!(done.len(), 65);
    assert!(done[..64].iter().all(|completion| completion.result.is_ok()));
    assert!(done[64].result.is_err());
}
