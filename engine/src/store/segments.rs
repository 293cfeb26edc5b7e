//! Segment table: the state, life and live blocks of every segment, and which may be written next.
//!
//! Invariants: `live` counts the blocks something still points to (index, checkpoint); a segment is
//! reused only when nothing points into it, no read is under way in it, and recovery needs none of
//! its batches: the durable checkpoint describes the last of them. Places in it that the
//! checkpoint still names do no harm: what moved or ended them is in the log that is replayed.
//! `cleanable` is the sum of what cleaning each segment would gain; only what goes into none of
//! these sums (pins, writes, times) is changed from outside.
//! Must never know: I/O, what the blocks mean.

use crate::limits::SEGMENTS_START_BLOCK;
use crate::units::{Location, Lsn, SegmentId, SegmentSequence};

/// Where a segment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Never written: writing it would allocate file extents on the hot path.
    Unprepared,
    /// Being written with zeroes.
    Preparing,
    /// Ready to be opened.
    Free,
    /// An append point writes it.
    Open,
    /// Full; holds live blocks or is waiting for its last batches to be installed.
    Sealed,
    /// Nothing points into it; free once a checkpoint makes its batches unnecessary.
    Empty,
}

/// What is gained cheaply: at least this part of a segment.
const WELL_WORTH_PART: u32 = 4;

/// How many states there are.
const STATES: usize = State::Empty as usize + 1;

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) state: State,
    pub(crate) sequence: SegmentSequence,
    /// Blocks something points to.
    pub(crate) live: u32,
    /// Reads under way.
    pub(crate) pins: u32,
    /// Batches written but not installed yet.
    pub(crate) writes: u32,
    /// Entries of groups in it that are retained or named by the durable checkpoint.
    pub(crate) entries: u32,
    /// Its last batch that was installed; or a later one, if a checkpoint must describe that before
    /// the segment is reused.
    pub(crate) last: Lsn,
    /// When it was sealed, for its age.
    pub(crate) sealed: Lsn,
    /// The cleaner could not move everything out of it; it tries again after a checkpoint.
    pub(crate) stuck: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Segments {
    segments: Vec<Segment>,
    segment_blocks: u32,
    /// Segments in each state.
    counts: [usize; STATES],
    next_unprepared: u32,
    next_sequence: SegmentSequence,
    /// Dead blocks that the cleaner can gain at little cost: see [`Segments::gain`].
    cleanable_blocks: u64,
    /// What the durable checkpoint describes: later batches are replayed after a crash.
    checkpoint: Lsn,
    /// What is freed now stays until a checkpoint describes this.
    hold: Lsn,
}

impl Segments {
    /// A table of never-written segments.
    pub(crate) fn new(count: u32, segment_blocks: u32) -> Segments {
        let segment = Segment {
            state: State::Unprepared,
            sequence: SegmentSequence(0),
            live: 0,
            pins: 0,
            writes: 0,
            entries: 0,
            last: Lsn(0),
            sealed: Lsn(0),
            stuck: false,
        };
        let mut counts = [0; STATES];
        counts[State::Unprepared as usize] = count as usize;
        Segments {
            segments: vec![segment; count as usize],
            segment_blocks,
            counts,
            next_unprepared: 0,
            next_sequence: SegmentSequence(1),
            cleanable_blocks: 0,
            checkpoint: Lsn(0),
            hold: Lsn(0),
        }
    }

    /// Number of segments.
    pub(crate) fn count(&self) -> u32 {
        self.segments.len() as u32
    }

    /// Blocks of a segment.
    pub(crate) fn segment_blocks(&self) -> u32 {
        self.segment_blocks
    }

    /// What the durable checkpoint describes.
    pub(crate) fn checkpoint(&self) -> Lsn {
        self.checkpoint
    }

    /// Segments ready to be opened.
    pub(crate) fn free(&self) -> usize {
        self.counts[State::Free as usize]
    }

    /// Next life number that will be handed out.
    pub(crate) fn next_sequence(&self) -> SegmentSequence {
        self.next_sequence
    }

    /// No segment was ever opened.
    pub(crate) fn are_new(&self) -> bool {
        self.next_sequence == SegmentSequence(1)
    }

    /// First segment that was never written whole; all before it were.
    pub(crate) fn prepared(&self) -> u32 {
        let new = |s: &Segment| matches!(s.state, State::Unprepared | State::Preparing);
        self.segments.iter().position(new).map_or(self.count(), |id| id as u32)
    }

    /// First block of a segment.
    pub(crate) fn start(&self, id: SegmentId) -> Location {
        Location(SEGMENTS_START_BLOCK + id.0 * self.segment_blocks)
    }

    /// The segment a block lies in; `None` outside the segments.
    pub(crate) fn of(&self, location: Location) -> Option<SegmentId> {
        let block = location.0.checked_sub(SEGMENTS_START_BLOCK)?;
        let id = block / self.segment_blocks;
        (id < self.count()).then_some(SegmentId(id))
    }

    /// A segment.
    pub(crate) fn get(&self, id: SegmentId) -> &Segment {
        &self.segments[id.0 as usize]
    }

    /// Dead blocks of a segment that are gained by moving the live ones: none where those are too
    /// many for it to pay, or where something else keeps the segment.
    pub(crate) fn gain(&self, segment: &Segment) -> u64 {
        let kept = segment.state != State::Sealed || segment.entries > 0 || segment.stuck;
        let dead = self.segment_blocks.saturating_sub(segment.live);
        let pays = dead >= self.segment_blocks / WELL_WORTH_PART;
        if pays && !kept { u64::from(dead) } else { 0 }
    }

    /// Whole segments that the cleaner can gain at little cost.
    pub(crate) fn cleanable(&self) -> usize {
        (self.cleanable_blocks / u64::from(self.segment_blocks)) as usize
    }

    /// The sum that [`Segments::cleanable`] goes by, and what it must be.
    pub(crate) fn cleanable_sums(&self) -> (u64, u64) {
        let found = self.segments.iter().map(|segment| self.gain(segment)).sum();
        (self.cleanable_blocks, found)
    }

    /// Changes what its gain depends on.
    fn change(&mut self, id: SegmentId, change: impl FnOnce(&mut Segment)) {
        let before = self.gain(self.get(id));
        change(self.get_mut(id));
        self.cleanable_blocks += self.gain(self.get(id));
        self.cleanable_blocks -= before;
    }

    /// The cleaner could not move everything out of it.
    pub(crate) fn set_stuck(&mut self, id: SegmentId, stuck: bool) {
        self.change(id, |segment| segment.stuck = stuck);
    }

    /// A segment, to change its other counters. State changes go through the methods below.
    pub(crate) fn get_mut(&mut self, id: SegmentId) -> &mut Segment {
        &mut self.segments[id.0 as usize]
    }

    /// All segments with their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SegmentId, &Segment)> {
        self.segments.iter().enumerate().map(|(i, segment)| (SegmentId(i as u32), segment))
    }

    fn set(&mut self, id: SegmentId, state: State) {
        self.counts[self.get(id).state as usize] -= 1;
        self.counts[state as usize] += 1;
        self.change(id, |segment| segment.state = state);
    }

    /// The next segment to write with zeroes, if any is left.
    pub(crate) fn start_preparing(&mut self) -> Option<SegmentId> {
        while self.next_unprepared < self.count() {
            let id = SegmentId(self.next_unprepared);
            self.next_unprepared += 1;
            if self.get(id).state == State::Unprepared {
                self.set(id, State::Preparing);
                return Some(id);
            }
        }
        None
    }

    /// A segment has been written once.
    pub(crate) fn prepared_now(&mut self, id: SegmentId) {
        assert_eq!(self.get(id).state, State::Preparing);
        self.set(id, State::Free);
    }

    /// Preparing failed (the file system is full): the segment is as before.
    pub(crate) fn prepare_failed(&mut self, id: SegmentId) {
        assert_eq!(self.get(id).state, State::Preparing);
        self.set(id, State::Unprepared);
        self.next_unprepared = self.next_unprepared.min(id.0);
    }

    /// At start: segments before `prepared` were written once.
    pub(crate) fn set_prepared(&mut self, prepared: u32) {
        for id in 0..prepared.min(self.count()) {
            if self.get(SegmentId(id)).state == State::Unprepared {
                self.set(SegmentId(id), State::Free);
            }
        }
        self.next_unprepared = prepared.min(self.count());
    }

    /// Opens the lowest free segment under a new life.
    pub(crate) fn open(&mut self) -> Option<SegmentId> {
        if self.iter().any(|(_, s)| s.state == State::Free && s.pins > 0) {
            sometimes!("read: a segment in use by a read was not reused");
        }
        let id = self.iter().find(|(_, s)| s.state == State::Free && s.pins == 0)?.0;
        self.set(id, State::Open);
        let sequence = self.next_sequence;
        self.next_sequence = SegmentSequence(sequence.0 + 1);
        let segment = self.get_mut(id);
        assert_eq!((segment.live, segment.writes, segment.entries), (0, 0, 0));
        segment.sequence = sequence;
        segment.stuck = false;
        Some(id)
    }

    /// At start: a segment found on the device.
    pub(crate) fn restore(&mut self, id: SegmentId, sequence: SegmentSequence) {
        self.set(id, State::Sealed);
        self.get_mut(id).sequence = sequence;
    }

    /// At start: no life at or below this is handed out again.
    pub(crate) fn set_next_sequence(&mut self, next: SegmentSequence) {
        self.next_sequence = self.next_sequence.max(next);
    }

    /// The append point is done with it.
    pub(crate) fn seal(&mut self, id: SegmentId, lsn: Lsn) {
        assert_eq!(self.get(id).state, State::Open);
        self.set(id, State::Sealed);
        self.get_mut(id).sealed = lsn;
        self.settle(id);
    }

    /// Adds blocks that something now points to.
    pub(crate) fn add_live(&mut self, location: Location, count: u32) {
        if let Some(id) = self.of(location) {
            self.change(id, |segment| segment.live += count);
        }
    }

    /// Removes blocks that nothing points to any more.
    pub(crate) fn free_blocks(&mut self, location: Location, count: u32) {
        let Some(id) = self.of(location) else { return };
        let hold = self.hold;
        self.change(id, |segment| {
            segment.live -= count;
            segment.last = segment.last.max(hold);
        });
        if self.get(id).live == 0 {
            self.settle(id);
        }
    }

    /// From now on what is freed stays until a checkpoint describes `lsn`; 0: the log tells of it.
    pub(crate) fn set_hold(&mut self, lsn: Lsn) {
        self.hold = lsn;
    }

    /// An entry of a group lies here: the segment is not reused.
    pub(crate) fn retain(&mut self, location: Location) {
        if let Some(id) = self.of(location) {
            self.change(id, |segment| segment.entries += 1);
        }
    }

    /// Nobody needs an entry in this segment any more.
    pub(crate) fn let_go(&mut self, id: SegmentId) {
        self.change(id, |segment| segment.entries -= 1);
        self.settle(id);
    }

    /// Frees a sealed segment without live blocks and writes, or marks it as empty.
    pub(crate) fn settle(&mut self, id: SegmentId) {
        let segment = self.get(id);
        let used = segment.live > 0 || segment.writes > 0 || segment.entries > 0;
        if segment.state == State::Sealed && !used {
            let old = segment.last <= self.checkpoint;
            self.set(id, if old { State::Free } else { State::Empty });
        }
    }

    /// A checkpoint that describes `lsn` is durable: empty segments it makes unnecessary are free.
    pub(crate) fn release(&mut self, lsn: Lsn) {
        self.checkpoint = lsn;
        for id in (0..self.count()).map(SegmentId) {
            self.set_stuck(id, false);
            if self.get(id).state == State::Empty && self.get(id).last <= lsn {
                self.set(id, State::Free);
            }
        }
    }

    /// At start, before the tail is replayed into younger segments: what the checkpoint does not
    /// need is free.
    pub(crate) fn release_before(&mut self, replay_from: SegmentSequence, checkpoint: Lsn) {
        self.checkpoint = checkpoint;
        for id in (0..self.count()).map(SegmentId) {
            if self.get(id).sequence < replay_from {
                self.settle(id);
            } else {
                self.get_mut(id).writes = 1;
            }
        }
    }

    /// At start, after the tail was replayed: nothing more is installed into what was found.
    pub(crate) fn replayed(&mut self) {
        for id in (0..self.count()).map(SegmentId) {
            self.get_mut(id).writes = 0;
            self.settle(id);
        }
    }

    /// Segments that the next checkpoint would free.
    pub(crate) fn empty(&self) -> usize {
        self.counts[State::Empty as usize]
    }

    /// Segments that were never written or are being prepared.
    pub(crate) fn unprepared(&self) -> usize {
        self.counts[State::Unprepared as usize] + self.counts[State::Preparing as usize]
    }
}
