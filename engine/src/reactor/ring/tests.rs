//! Goal: older kernels' rings work as well, and those that poll; a refused ring says why.
//! Method: each step of the setup by itself, with the optional parts taken away.

use super::setup::{STEPS, refusal};
use super::*;
use crate::buffer::PoolOptions;
use crate::reactor::{Message, Part, Reactor, ReceiveBuffers, conformance};

#[test]
fn every_step_of_the_setup_conforms() {
    let polls = [Duration::ZERO, Duration::from_micros(500)];
    let all = STEPS.into_iter().enumerate().flat_map(|step| polls.map(|polls| (step, polls)));
    for ((number, step), polls) in all {
        let pool = BufferPool::new(PoolOptions::default());
        let backend = RingBackend::with_steps(&pool, polls, &[step]);
        let mut backend = backend.expect("this kernel has it");
        let ring = Rc::get_mut(&mut backend.ring).expect("not shared yet");
        if number > 0 {
            ring.support.write_vectored_fixed = false;
            ring.support.multishot_poll = false;
            ring.alarms = Alarms::new(false);
            ring.support.file_slots.borrow_mut().clear();
        }
        let reactor = Reactor::with_backend(Box::new(backend), pool);
        reactor.block_on(works(&reactor, number));
        reactor.shutdown();
        assert_eq!(reactor.pool().in_use_bytes(), 0);
    }
}

async fn works(reactor: &Reactor, number: usize) {
    let name = format!("ashlar-step-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let options = DeviceOptions {
        create_size_bytes: Some(conformance::SIZE_MIN_BYTES),
        ..DeviceOptions::default()
    };
    let device = reactor.open_device(&path, &options).expect("opens");
    std::fs::remove_file(&path).expect("was created");
    conformance::check_all(&*device, reactor.pool(), number as u64).await;

    let address = Address::Unix(path.with_extension("sock"));
    let listener = reactor.listen(&address).expect("listens");
    let client = reactor.connect(&address).await.expect("connects");
    let server = listener.accept().await.expect("accepts");
    for _ in 0..100 {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        reactor.remote().post(move || sender.send(()).expect("is waited for"));
        receiver.await.expect("is sent");
        let message = Message { head: vec![7; 100], parts: vec![Part::Head(100)] };
        client.send(message).await.0.expect("sent");
        let first = reactor.pool().allocate(4096);
        let buffers = ReceiveBuffers { first, first_filled: 0, second: None };
        assert_eq!(server.receive(buffers).await.0.expect("received"), 100);
    }
    posted_from_a_thread(reactor).await;
}

/// Wakes out of the kernel, also where the doorbell must be armed again each time.
async fn posted_from_a_thread(reactor: &Reactor) {
    let remote = reactor.remote();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(200);
    let posting = std::thread::Builder::new().spawn(move || {
        for number in 0..200 {
            let sender = sender.clone();
            let (done, wait) = std::sync::mpsc::channel();
            remote.post(move || {
                sender.try_send(number).expect("has room");
                done.send(()).expect("is waited for");
            });
            wait.recv().expect("runs");
        }
    });
    for number in 0..200 {
        assert_eq!(receiver.recv().await, Some(number));
    }
    posting.expect("starts").join().expect("ends well");
}

#[test]
fn waits_share_an_alarm_until_a_timer_is_due_before_it() {
    let pool = BufferPool::new(PoolOptions::default());
    let backend = RingBackend::new(&pool, Duration::ZERO).expect("this kernel has it");
    let ring = Rc::clone(&backend.ring);
    if !ring.support.alarms {
        return;
    }
    let reactor = Reactor::with_backend(Box::new(backend), pool);
    let wait = |limit| {
        let remote = reactor.remote();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let posting = std::thread::Builder::new().spawn(move || {
            remote.post(|| {
                sender.send(()).expect("is waited for");
            })
        });
        assert!(reactor.block_on(reactor.within(limit, receiver)).is_some());
        assert!(posting.expect("starts").join().expect("ends well"));
        ring.alarms.len()
    };
    let long = Duration::from_secs(600);
    // Until one was really waited for.
    while wait(long) == 0 {}
    // Each of these may last longer than the one before.
    for _ in 0..20 {
        assert_eq!(wait(long), 1);
    }
    while wait(long / 2) == 1 {}
    assert_eq!((wait(long / 2), wait(long)), (2, 2));
    let start = reactor.now();
    reactor.block_on(reactor.sleep(Duration::from_millis(20)));
    assert!(reactor.now().since(start) >= Duration::from_millis(20));
    reactor.shutdown();
}

#[test]
fn a_ring_that_polls_finds_what_has_come() {
    let pool = BufferPool::new(PoolOptions::default());
    let max = Duration::from_millis(1);
    let mut backend = RingBackend::new(&pool, max).expect("this kernel has it");
    let ring = Rc::get_mut(&mut backend.ring).expect("not shared yet");
    ring.arm_doorbell();
    ring.enter(0, None);
    assert!(!ring.poll(setup::boot_time(), None), "no wait was short yet");
    (0..4).for_each(|_| ring.busy_poll.end(max));
    assert!(!ring.poll(setup::boot_time(), None), "nothing has come");
    ring.busy_poll = BusyPoll::new(max);
    (0..4).for_each(|_| ring.busy_poll.end(max));
    ring.doorbell.ring();
    assert!(ring.poll(setup::boot_time(), None));
    ring.reap();
}

#[test]
fn a_refused_ring_says_why() {
    let says = |code, words: &str| {
        let sentence = refusal(&io::Error::from_raw_os_error(code));
        assert!(sentence.contains(words), "{sentence}");
    };
    says(libc::ENOSYS, "this kernel has no io_uring");
    says(libc::EPERM, "kernel.io_uring_disabled");
    says(libc::ENOMEM, "ulimit -l");
    says(libc::EMFILE, "too many open files");
    says(libc::EINVAL, "Invalid argument");
}
