//! What was asked of a volume, what was answered, and what was seen: the oracle's memory.
//!
//! Every request has a begin and an end on one logical clock. One that was never answered may have
//! happened until the store it went to was gone, or not at all. When a restarted store's whole
//! content has been read and judged, that content is the new base and the past is forgotten, sector
//! by sector; sectors that could not be read keep theirs.
//! Must never know: sockets, disks, virtual time.

use crate::invariants::{Violation, foreign};
use crate::sector::{Content, SECTOR_BYTES};
use std::ops::Range;

/// The base of a sector that may hold any of its old values.
pub const UNKNOWN: u64 = u64::MAX;

/// What a request does to its sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Stamps them.
    Write,
    /// Zeroes them.
    Zero,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not answered yet.
    Pending,
    /// Acknowledged.
    Done,
    /// Refused before anything was done.
    Refused,
    /// Nobody knows: the answer was an error or never came.
    Lost,
}

/// A change that was asked for.
#[derive(Clone, Debug)]
pub struct Op {
    /// What it does.
    pub effect: Effect,
    /// To which sectors.
    pub sectors: Range<u64>,
    /// Promised to happen whole or not at all.
    pub atomic: bool,
    /// When it was asked.
    pub begin: u64,
    /// After this it cannot happen any more.
    pub end: u64,
    /// What became of it.
    pub fate: Fate,
}

/// Names a change; its stamp carries this number plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId(pub u32);

impl OpId {
    /// The sequence number of its stamps.
    #[must_use]
    pub fn sequence(self) -> u64 {
        u64::from(self.0) + 1
    }
}

/// One thing that touched a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A change covered it.
    Change(OpId),
    /// A read, and the value it saw: 0 for zeroes, else a sequence number.
    Seen {
        /// Index into [`History::reads`].
        read: u32,
        /// What it saw.
        value: u64,
    },
}

/// See the module.
#[derive(Debug)]
pub struct History {
    /// The volume's life, as its stamps carry it.
    pub volume: u64,
    clock: u64,
    /// All changes of the volume's life.
    pub ops: Vec<Op>,
    /// Begin and end of all reads that were answered.
    pub reads: Vec<(u64, u64)>,
    /// What touched each sector since it was last settled.
    pub sectors: Vec<Vec<Event>>,
    /// What each sector held when it was last settled.
    pub base: Vec<u64>,
    /// Changes before this one are settled everywhere that could be read.
    pub settled: OpId,
}

impl History {
    /// A new volume: all zeroes.
    #[must_use]
    pub fn new(volume: u64, sectors: u64) -> History {
        History {
            volume,
            clock: 0,
            ops: Vec::new(),
            reads: Vec::new(),
            sectors: vec![Vec::new(); sectors as usize],
            base: vec![0; sectors as usize],
            settled: OpId(0),
        }
    }

    /// The next moment.
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A change is about to be asked for.
    pub fn begin(&mut self, effect: Effect, sectors: Range<u64>, atomic: bool) -> OpId {
        let begin = self.tick();
        let id = OpId(self.ops.len() as u32);
        for events in &mut self.sectors[sectors.start as usize..sectors.end as usize] {
            events.push(Event::Change(id));
        }
        let fate = Fate::Pending;
        self.ops.push(Op { effect, sectors, atomic, begin, end: u64::MAX, fate });
        id
    }

    /// A change was answered. With [`Fate::Lost`] it may still happen until [`History::stop`].
    pub fn end(&mut self, id: OpId, fate: Fate) {
        let now = self.tick();
        let op = &mut self.ops[id.0 as usize];
        assert_eq!(op.fate, Fate::Pending, "a change is answered once");
        op.fate = fate;
        if fate != Fate::Lost {
            op.end = now;
        }
    }

    /// The store is gone: what was not answered has happened by now, or never will.
    pub fn stop(&mut self) {
        let now = self.tick();
        for op in self.ops.iter_mut() {
            if op.end == u64::MAX {
                op.end = now;
                op.fate = Fate::Lost;
            }
        }
    }

    /// A read that was asked at `begin` has been answered. Foreign bytes are found at once.
    ///
    /// Returns the value of each sector.
    ///
    /// # Errors
    /// If a sector holds what nobody wrote there.
    pub fn seen(&mut self, first: u64, bytes: &[u8], begin: u64) -> Result<Vec<u64>, Violation> {
        let end = self.tick();
        let read = self.reads.len() as u32;
        self.reads.push((begin, end));
        let mut values = Vec::with_capacity(bytes.len() / SECTOR_BYTES);
        for (i, sector) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
            let address = first + i as u64;
            let content = Content::decode(sector);
            let value = foreign::judge(self, address, &content)?;
            self.sectors[address as usize].push(Event::Seen { read, value });
            values.push(value);
        }
        Ok(values)
    }

    /// The change with this sequence number.
    #[must_use]
    pub fn op(&self, sequence: u64) -> Option<&Op> {
        self.ops.get(usize::try_from(sequence).ok()?.checked_sub(1)?)
    }

    /// Takes what a whole read after a restart showed as the new base. `None`: unreadable.
    pub fn settle(&mut self, contents: &[Option<u64>]) {
        for (sector, content) in contents.iter().enumerate() {
            if let Some(value) = content {
                self.base[sector] = *value;
                self.sectors[sector].clear();
            }
        }
        self.settled = OpId(self.ops.len() as u32);
    }

    /// Sectors without content may hold anything that was ever meant for them.
    pub fn forget_unread(&mut self, contents: &[Option<u64>]) {
        for (sector, _) in contents.iter().enumerate().filter(|(_, content)| content.is_none()) {
            self.base[sector] = UNKNOWN;
            self.sectors[sector].clear();
        }
    }

    /// The changes of a sector since it was settled.
    pub fn changes(&self, sector: u64) -> impl DoubleEndedIterator<Item = (OpId, &Op)> {
        self.sectors[sector as usize].iter().filter_map(|event| match event {
            Event::Change(id) => Some((*id, &self.ops[id.0 as usize])),
            Event::Seen { .. } => None,
        })
    }
}
