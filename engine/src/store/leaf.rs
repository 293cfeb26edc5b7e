//! Index leaf: where 512 consecutive blocks of a volume are.
//!
//! A leaf is a sorted list of runs, or a dense array of slots once nearly every block stands alone.
//! A lone block carries its checksum; a long run carries the place of its batch header instead,
//! which holds the checksums on the device. Either way at most 12 bytes per mapped block.
//! Invariants: entries are sorted, disjoint and not empty; only mapped blocks have entries.
//! Must never know: volumes, I/O.

use crate::format::LeafForm;
use crate::units::Location;

/// Blocks of a leaf.
pub(crate) const LEAF_BLOCKS: u32 = 512;
/// The location that means "reads as zeroes, space reserved".
pub(crate) const RESERVED: Location = Location(1);
/// Runs shorter than this are kept as lone blocks with their checksums.
const RUN_BLOCKS_MIN: u32 = 16;
/// More entries than this take more room than the dense form.
const SPARSE_ENTRIES_MAX: usize = crate::format::IMAGE_DENSE_BYTES / 12;
/// Bit of `Entry::count`: `check` is the block's checksum, not a header's place.
const INLINE: u16 = 1 << 15;

/// How the checksum of a mapped block is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// This is it.
    Sum(u32),
    /// It is in the table of the batch whose header is here.
    Header(Location),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    first: u16,
    count: u16,
    location: Location,
    check: u32,
}

impl Entry {
    fn start(self) -> u32 {
        self.first.into()
    }
    fn blocks(self) -> u32 {
        (self.count & !INLINE).into()
    }
    fn end(self) -> u32 {
        self.start() + self.blocks()
    }
    fn is_inline(self) -> bool {
        self.count & INLINE != 0
    }

    /// The part of a run from block `from` to `to`.
    fn part(self, from: u32, to: u32) -> Entry {
        let skipped = if self.location == RESERVED { 0 } else { from - self.start() };
        Entry {
            first: from as u16,
            count: (to - from) as u16 | (self.count & INLINE),
            location: self.location.offset(skipped),
            check: self.check,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    location: Location,
    sum: u32,
}

/// New place of a run of blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    /// First block's place, or [`RESERVED`] for all of them.
    pub(crate) location: Location,
    /// The header of the batch that wrote them.
    pub(crate) header: Location,
    /// One checksum per block; its length is the run's.
    pub(crate) checksums: &'a [u32],
}

/// A stretch of a leaf that is mapped one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Blocks, counted from the block asked for.
    pub(crate) count: u32,
    /// `None`: a hole.
    pub(crate) place: Option<(Location, Check)>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Sparse(Vec<Entry>),
    Dense(Box<[Slot; LEAF_BLOCKS as usize]>),
}

impl Default for Leaf {
    fn default() -> Leaf {
        Leaf { form: Form::Sparse(Vec::new()) }
    }
}

impl Leaf {
    /// How `block` is mapped, and for how many blocks on.
    pub(crate) fn lookup(&self, block: u32) -> Stretch {
        match &self.form {
            Form::Dense(slots) => {
                let slot = slots[block as usize];
                if slot.location == Location(0) {
                    let holes = slots[block as usize..].iter();
                    let count = holes.take_while(|slot| slot.location == Location(0)).count();
                    return Stretch { count: count as u32, place: None };
                }
                Stretch { count: 1, place: Some((slot.location, Check::Sum(slot.sum))) }
            }
            Form::Sparse(entries) => {
                let next = entries.partition_point(|entry| entry.end() <= block);
                match entries.get(next) {
                    Some(entry) if entry.start() <= block => {
                        let part = entry.part(block, entry.end());
                        let check = if part.is_inline() {
                            Check::Sum(part.check)
                        } else {
                            Check::Header(Location(part.check))
                        };
                        Stretch { count: part.blocks(), place: Some((part.location, check)) }
                    }
                    Some(entry) => Stretch { count: entry.start() - block, place: None },
                    None => Stretch { count: LEAF_BLOCKS - block, place: None },
                }
            }
        }
    }

    /// Unmaps a range; `freed` is told every place that is no longer mapped.
    pub(crate) fn unmap(&mut self, first: u32, count: u32, freed: &mut impl FnMut(Location, u32)) {
        let end = first + count;
        match &mut self.form {
            Form::Dense(slots) => {
                for slot in &mut slots[first as usize..end as usize] {
                    if slot.location != Location(0) {
                        freed(slot.location, 1);
                        *slot = Slot::default();
                    }
                }
            }
            Form::Sparse(entries) => {
                cut(entries, first, end, freed);
            }
        }
    }

    /// Maps `run.checksums.len()` blocks from `first` on; `freed` is told what they displace.
    pub(crate) fn map(&mut self, first: u32, run: Run<'_>, freed: &mut impl FnMut(Location, u32)) {
        let count = run.checksums.len() as u32;
        let is_run = run.location == RESERVED || count >= RUN_BLOCKS_MIN;
        if is_run {
            self.thin_out(first, count);
        }
        match &mut self.form {
            Form::Dense(slots) => {
                for (i, sum) in run.checksums.iter().enumerate() {
                    let slot = &mut slots[first as usize + i];
                    if slot.location != Location(0) {
                        freed(slot.location, 1);
                    }
                    let skipped = if run.location == RESERVED { 0 } else { i as u32 };
                    *slot = Slot { location: run.location.offset(skipped), sum: *sum };
                }
            }
            Form::Sparse(entries) => {
                let at = cut(entries, first, first + count, freed);
                if is_run {
                    insert_run(entries, at, first, run);
                } else {
                    let lone = run.checksums.iter().enumerate().map(|(i, sum)| Entry {
                        first: (first + i as u32) as u16,
                        count: 1 | INLINE,
                        location: run.location.offset(i as u32),
                        check: *sum,
                    });
                    entries.splice(at..at, lone);
                }
                self.thicken();
            }
        }
    }

    /// Turns a dense leaf into runs if the coming run from `first` on makes that smaller.
    fn thin_out(&mut self, first: u32, count: u32) {
        let Form::Dense(slots) = &self.form else { return };
        let stays = |i: &usize| !(first as usize..(first + count) as usize).contains(i);
        let lone = slots.iter().enumerate().filter(|(i, slot)| stays(i) && slot.location.0 != 0);
        if lone.clone().count() >= SPARSE_ENTRIES_MAX {
            return;
        }
        // The blocks about to be replaced are kept too, so that their places are reported as freed.
        let all = slots.iter().enumerate().filter(|(_, slot)| slot.location.0 != 0);
        let entries = all
            .map(|(i, slot)| Entry {
                first: i as u16,
                count: 1 | INLINE,
                location: slot.location,
                check: slot.sum,
            })
            .collect();
        self.form = Form::Sparse(entries);
    }

    /// Turns a long list of lone blocks into the dense form.
    fn thicken(&mut self) {
        let Form::Sparse(entries) = &self.form else { return };
        let lone = |entry: &Entry| entry.is_inline() && entry.blocks() == 1;
        if entries.len() <= SPARSE_ENTRIES_MAX || !entries.iter().all(lone) {
            return;
        }
        let mut slots = Box::new([Slot::default(); LEAF_BLOCKS as usize]);
        for entry in entries {
            slots[entry.first as usize] = Slot { location: entry.location, sum: entry.check };
        }
        self.form = Form::Dense(slots);
    }

    /// Every mapped stretch: first block, blocks, place.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = (u32, u32, Location)> + '_ {
        let mut block = 0;
        std::iter::from_fn(move || {
            while block < LEAF_BLOCKS {
                let (at, stretch) = (block, self.lookup(block));
                block += stretch.count;
                if let Some((location, _)) = stretch.place {
                    return Some((at, stretch.count, location));
                }
            }
            None
        })
    }

    /// Bytes this leaf takes in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Leaf>()
            + match &self.form {
                Form::Sparse(entries) => entries.capacity() * size_of::<Entry>(),
                Form::Dense(_) => size_of::<[Slot; LEAF_BLOCKS as usize]>(),
            }
    }

    /// Encoding that an image of this leaf has.
    pub(crate) fn form(&self) -> LeafForm {
        match &self.form {
            Form::Sparse(entries) => LeafForm::Sparse(entries.len() as u16),
            Form::Dense(_) => LeafForm::Dense,
        }
    }

    /// Fills an image's body.
    pub(crate) fn encode(&self, body: &mut [u8]) {
        match &self.form {
            Form::Sparse(entries) => {
                for (entry, bytes) in entries.iter().zip(body.chunks_exact_mut(12)) {
                    bytes[..2].copy_from_slice(&entry.first.to_le_bytes());
                    bytes[2..4].copy_from_slice(&entry.count.to_le_bytes());
                    bytes[4..8].copy_from_slice(&entry.location.0.to_le_bytes());
                    bytes[8..].copy_from_slice(&entry.check.to_le_bytes());
                }
            }
            Form::Dense(slots) => {
                for (slot, bytes) in slots.iter().zip(body.chunks_exact_mut(8)) {
                    bytes[..4].copy_from_slice(&slot.location.0.to_le_bytes());
                    bytes[4..].copy_from_slice(&slot.sum.to_le_bytes());
                }
            }
        }
    }

    /// Decodes an image's body; `None` if it breaks the leaf's invariants.
    pub(crate) fn decode(form: LeafForm, body: &[u8]) -> Option<Leaf> {
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("invariant: 4 bytes"));
        if form == LeafForm::Dense {
            let mut slots = Box::new([Slot::default(); LEAF_BLOCKS as usize]);
            for (slot, bytes) in slots.iter_mut().zip(body.chunks_exact(8)) {
                *slot = Slot { location: Location(word(&bytes[..4])), sum: word(&bytes[4..]) };
            }
            return Some(Leaf { form: Form::Dense(slots) });
        }
        let mut entries = Vec::with_capacity(body.len() / 12);
        let mut end = 0;
        for bytes in body.chunks_exact(12) {
            let entry = Entry {
                first: u16::from_le_bytes([bytes[0], bytes[1]]),
                count: u16::from_le_bytes([bytes[2], bytes[3]]),
                location: Location(word(&bytes[4..8])),
                check: word(&bytes[8..]),
            };
            let sorted = entry.start() >= end && entry.end() <= LEAF_BLOCKS;
            if !sorted || entry.blocks() == 0 || entry.location.0 == 0 {
                return None;
            }
            end = entry.end();
            entries.push(entry);
        }
        Some(Leaf { form: Form::Sparse(entries) })
    }
}

/// Inserts a run at its place, joined with the run before it if it only continues that one.
fn insert_run(entries: &mut Vec<Entry>, at: usize, first: u32, run: Run<'_>) {
    let count = run.checksums.len() as u16;
    if let Some(before) = at.checked_sub(1).map(|i| &mut entries[i])
        && before.end() == first
        && !before.is_inline()
        && before.check == run.header.0
        && before.location != RESERVED
        && before.location.offset(before.blocks()) == run.location
    {
        before.count += count;
        return;
    }
    let entry = Entry { first: first as u16, count, location: run.location, check: run.header.0 };
    entries.insert(at, entry);
}

/// Removes `[first, end)` from the list; returns the index where an entry for it belongs.
fn cut(
    entries: &mut Vec<Entry>,
    first: u32,
    end: u32,
    freed: &mut impl FnMut(Location, u32),
) -> usize {
    let from = entries.partition_point(|entry| entry.end() <= first);
    let to = from + entries[from..].partition_point(|entry| entry.start() < end);
    if from == to {
        return from;
    }
    let (head, tail) = (entries[from], entries[to - 1]);
    for entry in &entries[from..to] {
        let part = entry.part(entry.start().max(first), entry.end().min(end));
        freed(part.location, part.blocks());
    }
    let kept_head = (head.start() < first).then(|| head.part(head.start(), first));
    let kept_tail = (tail.end() > end).then(|| tail.part(end, tail.end()));
    // The common case, one lone block replaced by another, moves nothing.
    entries.splice(from..to, kept_head.into_iter().chain(kept_tail));
    from + usize::from(kept_head.is_some())
}

#[cfg(test)]
mod tests;
