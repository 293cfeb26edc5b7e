//! The network of a world: who listens where, connecting, and bytes that arrive.
//!
//! Invariant: a connection that came while nobody accepted is kept for the next who does.
//! Must never know: what connections are for.

use super::faults::{Dice, FaultKind, Latency, NetFaults};
use super::link::Link;
use super::machine::Host;
use super::stream::SimStream;
use super::trace::Step;
use super::world::{Core, Event, Process};
use crate::reactor::{Address, Listener, LocalBox, RandomStream, Stream};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Connections kept while nobody accepts.
const BACKLOG_MAX: usize = 1024;
/// First port of those that the system chooses.
const PORT_FIRST: u16 = 32768;

/// Sockets of a world.
pub(super) struct Net {
    faults: NetFaults,
    random: RandomStream,
    dice: Dice,
    listeners: BTreeMap<Address, Rc<Acceptor>>,
    /// Socket files whose listeners died.
    abandoned: BTreeSet<PathBuf>,
    next_port: u16,
    links: Vec<Weak<Link>>,
    /// Whose bytes do not reach whom.
    cuts: BTreeSet<(Host, Host)>,
    /// Hosts without power.
    dark: BTreeSet<Host>,
    /// The host that listened at an address last.
    hosts: BTreeMap<Address, Host>,
    /// What cuts keep on its way, in order.
    held: Vec<NetEvent>,
}

/// Something that happens to sockets.
pub(super) enum NetEvent {
    Connect(Rc<Connecting>),
    /// So many bytes of a direction arrive.
    Arrive(Rc<Link>, usize, usize),
    /// The end of a direction arrives.
    End(Rc<Link>, usize),
    /// The sender of a direction learns that nobody reads.
    Gone(Rc<Link>, usize),
    /// The sender's last byte was taken.
    Sent(Rc<Link>, usize),
}

/// What a listener and connections on their way to it share.
struct Acceptor {
    core: Rc<Core>,
    process: Rc<Process>,
    address: Address,
    waiting: RefCell<VecDeque<Rc<dyn Stream>>>,
    waker: RefCell<Option<Waker>>,
}

/// The handle. Dropping it stops listening.
struct SimListener {
    acceptor: Rc<Acceptor>,
}

/// A connect on its way.
pub(super) struct Connecting {
    process: Rc<Process>,
    address: Address,
    result: RefCell<Option<io::Result<Rc<dyn Stream>>>>,
    waker: RefCell<Option<Waker>>,
    /// Nobody waits any more.
    dropped: Cell<bool>,
}

impl Net {
    pub(super) fn new(seed: u64, faults: NetFaults) -> Net {
        Net {
            faults,
            random: RandomStream::named(seed, "net"),
            dice: Dice::new(seed, "net faults"),
            listeners: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            next_port: PORT_FIRST,
            links: Vec::new(),
            cuts: BTreeSet::new(),
            dark: BTreeSet::new(),
            hosts: BTreeMap::new(),
            held: Vec::new(),
        }
    }

    /// Whether nothing comes from one host to another now.
    fn is_cut(&self, from: Option<Host>, to: Option<Host>) -> bool {
        let dark = |host: Option<Host>| host.is_some_and(|host| self.dark.contains(&host));
        let cut = from.zip(to).is_some_and(|way| self.cuts.contains(&way));
        cut || dark(from) || dark(to)
    }

    fn holds_back(&self, event: &NetEvent) -> bool {
        match event {
            NetEvent::Connect(connecting) => {
                let (own, other) =
                    (connecting.process.host, self.hosts.get(&connecting.address).copied());
                self.is_cut(own, other) || self.is_cut(other, own)
            }
            NetEvent::Arrive(link, direction, _) | NetEvent::End(link, direction) => {
                self.is_cut(link.host(*direction), link.host(1 - direction))
            }
            NetEvent::Gone(link, direction) => {
                self.is_cut(link.host(1 - direction), link.host(*direction))
            }
            NetEvent::Sent(..) => false,
        }
    }

    pub(super) fn set_faults(&mut self, faults: NetFaults) {
        self.faults = faults;
    }

    pub(super) fn buffer_bytes(&self) -> usize {
        self.faults.buffer_bytes.max(1)
    }

    /// How long bytes are on their way now.
    pub(super) fn delay(&mut self, core: &Core) -> Duration {
        let Latency { stall, stall_max, .. } = self.faults.latency;
        let mut delay = self.faults.latency.draw(&mut self.random);
        let dice = self.dice.of(FaultKind::NetStall);
        if stall.hits(dice) {
            let longest = u64::try_from(stall_max.as_nanos()).unwrap_or(u64::MAX).max(1);
            let stalled = Duration::from_nanos(dice.below(longest));
            if core.inject(FaultKind::NetStall) {
                delay += stalled;
            }
        }
        delay
    }

    /// How many of `len` bytes go at once.
    pub(super) fn split(&mut self, core: &Core, len: usize) -> usize {
        let dice = self.dice.of(FaultKind::NetSplit);
        if len < 2 || !self.faults.split.hits(dice) {
            return len;
        }
        let first = 1 + dice.below(len as u64 - 1) as usize;
        if core.inject(FaultKind::NetSplit) { first } else { len }
    }

    /// Whether the connection breaks now.
    pub(super) fn cut(&mut self, core: &Core) -> bool {
        self.faults.cut.hits(self.dice.of(FaultKind::NetCut)) && core.inject(FaultKind::NetCut)
    }

    /// Where among `len` bytes a bit changes, and which, if one does.
    pub(super) fn garble(&mut self, core: &Core, len: usize) -> Option<(usize, u8)> {
        let dice = self.dice.of(FaultKind::NetGarble);
        if len == 0 || !self.faults.garble.hits(dice) {
            return None;
        }
        let (at, bit) = (dice.below(len as u64) as usize, dice.below(8) as u8);
        core.inject(FaultKind::NetGarble).then_some((at, 1 << bit))
    }

    fn free_port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(PORT_FIRST);
        port
    }

    fn find(&self, address: &Address) -> Option<&Rc<Acceptor>> {
        let any = |address: &SocketAddr| match address.ip() {
            IpAddr::V4(_) => SocketAddr::from(([0; 4], address.port())),
            IpAddr::V6(_) => SocketAddr::from(([0_u16; 8], address.port())),
        };
        let exact = self.listeners.get(address);
        exact.or_else(|| match address {
            Address::Tcp(address) => self.listeners.get(&Address::Tcp(any(address))),
            Address::Unix(_) => None,
        })
    }

    fn add_link(&mut self, link: &Rc<Link>) {
        if self.links.len().is_power_of_two() {
            self.links.retain(|link| link.strong_count() > 0);
        }
        self.links.push(Rc::downgrade(link));
    }

    fn living_links(&self) -> Vec<Rc<Link>> {
        self.links.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Binds and listens.
pub(super) fn listen(
    core: &Rc<Core>,
    process: &Rc<Process>,
    address: &Address,
) -> io::Result<Rc<dyn Listener>> {
    if !core.is_alive(process) {
        return Err(io::Error::other("the reactor is shut down"));
    }
    let mut net = core.net.borrow_mut();
    let address = match address {
        Address::Tcp(address) if address.port() == 0 => {
            Address::Tcp(SocketAddr::new(address.ip(), net.free_port()))
        }
        other => other.clone(),
    };
    if net.listeners.contains_key(&address) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    if let Address::Unix(path) = &address {
        net.abandoned.remove(path);
    }
    let acceptor = Rc::new(Acceptor {
        core: Rc::clone(core),
        process: Rc::clone(process),
        address: address.clone(),
        waiting: RefCell::default(),
        waker: RefCell::default(),
    });
    if let Some(host) = process.host {
        net.hosts.insert(address.clone(), host);
    }
    net.listeners.insert(address, Rc::clone(&acceptor));
    Ok(Rc::new(SimListener { acceptor }))
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let acceptor = &self.acceptor;
        let mut net = acceptor.core.net.borrow_mut();
        let listens = net.listeners.get(&acceptor.address);
        if listens.is_some_and(|listens| Rc::ptr_eq(listens, acceptor)) {
            net.listeners.remove(&acceptor.address);
        }
        drop(net);
        let waiting = acceptor.waiting.take();
        drop(waiting); // Outside all borrows: streams that go tell their peers.
    }
}

impl Listener for SimListener {
    fn accept(&self) -> LocalBox<io::Result<Rc<dyn Stream>>> {
        let acceptor = Rc::clone(&self.acceptor);
        Box::pin(poll_fn(move |context| {
            if let Some(stream) = acceptor.waiting.borrow_mut().pop_front() {
                return Poll::Ready(Ok(stream));
            }
            if !acceptor.core.is_alive(&acceptor.process) {
                return Poll::Ready(Err(io::Error::other("the reactor is shut down")));
            }
            acceptor.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        }))
    }

    fn address(&self) -> Address {
        self.acceptor.address.clone()
    }
}

/// Marks a connect that nobody waits for.
struct Waiting(Rc<Connecting>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dropped.set(true);
        let unclaimed = self.0.result.take();
        drop(unclaimed);
    }
}

/// Connects to `address`.
pub(super) fn connect(
    core: &Rc<Core>,
    process: &Rc<Process>,
    address: &Address,
) -> LocalBox<io::Result<Rc<dyn Stream>>> {
    let (core, process, address) = (Rc::clone(core), Rc::clone(process), address.clone());
    Box::pin(async move {
        if !core.is_alive(&process) {
            return Err(io::Error::other("the reactor is shut down"));
        }
        let connecting = Rc::new(Connecting {
            process,
            address,
            result: RefCell::default(),
            waker: RefCell::default(),
            dropped: Cell::new(false),
        });
        let delay = core.net.borrow_mut().delay(&core);
        core.schedule(delay, Event::Net(NetEvent::Connect(Rc::clone(&connecting))));
        let waiting = Waiting(connecting);
        poll_fn(|context| match waiting.0.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                waiting.0.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    })
}

/// A connect arrives: it finds a listener or not.
fn arrive(core: &Rc<Core>, connecting: &Rc<Connecting>) {
    if connecting.dropped.get() || !core.is_alive(&connecting.process) {
        return;
    }
    let mut net = core.net.borrow_mut();
    let result = match net.find(&connecting.address).map(Rc::clone) {
        Some(acceptor) if acceptor.waiting.borrow().len() < BACKLOG_MAX => {
            let tcp = matches!(connecting.address, Address::Tcp(_));
            let link = Link::new(core, [&connecting.process, &acceptor.process], tcp);
            net.add_link(&link);
            let (to_server, to_client) = peers(&mut net, connecting, &acceptor);
            acceptor.waiting.borrow_mut().push_back(SimStream::end(&link, 1, to_client));
            let waker = acceptor.waker.take();
            waker.into_iter().for_each(Waker::wake);
            Ok(SimStream::end(&link, 0, to_server))
        }
        Some(_) => Err(io::ErrorKind::ConnectionRefused.into()),
        None => Err(match &connecting.address {
            Address::Unix(path) if !net.abandoned.contains(path) => io::ErrorKind::NotFound,
            _ => io::ErrorKind::ConnectionRefused,
        }
        .into()),
    };
    drop(net);
    core.note(Step::NetConnect, &[u64::from(result.is_ok())]);
    connecting.result.replace(Some(result));
    let waker = connecting.waker.take();
    waker.into_iter().for_each(Waker::wake);
}

/// What the connecting end calls the other, and the other way round.
fn peers(net: &mut Net, connecting: &Connecting, acceptor: &Acceptor) -> (String, String) {
    match &connecting.address {
        Address::Tcp(server) => {
            let client = SocketAddr::new(server.ip(), net.free_port());
            (server.to_string(), client.to_string())
        }
        Address::Unix(_) => {
            let of = |process: &Process| format!("unix, process {}", process.number);
            (of(&acceptor.process), of(&connecting.process))
        }
    }
}

/// Something happens to a socket.
pub(super) fn perform(core: &Rc<Core>, event: NetEvent) {
    {
        let mut net = core.net.borrow_mut();
        if net.holds_back(&event) {
            return net.held.push(event);
        }
    }
    match event {
        NetEvent::Connect(connecting) => arrive(core, &connecting),
        NetEvent::Arrive(link, direction, len) => link.bytes_arrive(direction, len),
        NetEvent::End(link, direction) => link.end_arrives(direction),
        NetEvent::Gone(link, direction) => link.reader_is_gone(direction),
        NetEvent::Sent(link, direction) => link.sent(direction),
    }
}

/// All processes are dead.
pub(super) fn crash(core: &Core) {
    let mut net = core.net.borrow_mut();
    let listeners = std::mem::take(&mut net.listeners);
    for address in listeners.keys() {
        if let Address::Unix(path) = address {
            net.abandoned.insert(path.clone());
        }
    }
    let links = net.living_links();
    let held = std::mem::take(&mut net.held);
    net.links.clear();
    net.cuts.clear();
    net.dark.clear();
    drop(net);
    drop(held);
    links.iter().for_each(|link| link.kill());
}

/// A process ended: its listeners are gone and its sends given up.
pub(super) fn close_process(core: &Core, process: u64) {
    let mut net = core.net.borrow_mut();
    let gone = net.listeners.extract_if(.., |_, acceptor| acceptor.process.number == process);
    let gone: Vec<_> = gone.collect();
    let links = net.living_links();
    drop(net);
    links.iter().for_each(|link| link.close_process(process));
    drop(gone);
}

/// Sets the cuts. What they kept on its way and do not any more goes on.
pub(super) fn set_cuts(core: &Core, cuts: BTreeSet<(Host, Host)>) {
    core.net.borrow_mut().cuts = cuts;
    release(core);
}

/// Lets all that is held back try again, in order.
fn release(core: &Core) {
    let held = std::mem::take(&mut core.net.borrow_mut().held);
    held.into_iter().for_each(|event| core.schedule(Duration::ZERO, Event::Net(event)));
}

/// The process of a host was killed: the kernel closes its sockets.
pub(super) fn host_process_dies(core: &Core, process: u64) {
    let mut net = core.net.borrow_mut();
    let listeners = net.listeners.iter().filter(|(_, a)| a.process.number == process);
    let paths = listeners.filter_map(|(address, _)| match address {
        Address::Unix(path) => Some(path.clone()),
        Address::Tcp(_) => None,
    });
    let paths: Vec<PathBuf> = paths.collect();
    net.abandoned.extend(paths);
    drop(net);
    close_process(core, process);
}

/// A host has no power any more: it is silent.
pub(super) fn host_is_dark(core: &Core, host: Host, process: u64) {
    let mut net = core.net.borrow_mut();
    net.dark.insert(host);
    let gone = net.listeners.extract_if(.., |_, acceptor| acceptor.process.number == process);
    let gone: Vec<_> = gone.collect();
    drop(net);
    drop(gone);
}

/// A host is there again: who is still connected to its former life is told.
pub(super) fn host_is_back(core: &Core, host: Host) {
    let mut net = core.net.borrow_mut();
    net.dark.remove(&host);
    let links = net.living_links();
    drop(net);
    links.iter().filter(|link| link.is_left_by(host)).for_each(|link| link.kill());
    release(core);
}
