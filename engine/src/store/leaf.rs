//! Index leaf: where 512 consecutive blocks of a volume are.
//!
//! A leaf is a sorted list of a few runs, or a dense array of slots once there are many.
//! A lone block carries its checksum; a block of a long run carries the place of its batch header
//! instead, which holds the checksums on the device. Either way at most 12 bytes per mapped block.
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
/// A leaf with more entries than this is dense if that keeps to 12 bytes per mapped block: a slot
/// is found at once, an entry by a search through cold memory.
const SPARSE_ENTRIES_FAST: usize = 16;
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

    /// Whether a block belongs to the same run.
    fn continues_with(self, block: u32, location: Location, header: u32) -> bool {
        let next = match self.location {
            RESERVED => RESERVED,
            location => location.offset(self.blocks()),
        };
        self.end() == block && !self.is_inline() && self.check == header && next == location
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
    check: u32,
}

/// One slot per block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Dense {
    slots: [Slot; LEAF_BLOCKS as usize],
    /// Bit per block: `check` is the checksum itself.
    inline: [u64; LEAF_BLOCKS as usize / 64],
}

impl Dense {
    fn empty() -> Box<Dense> {
        Box::new(Dense { slots: [Slot::default(); 512], inline: [0; 8] })
    }

    fn is_inline(&self, block: usize) -> bool {
        self.inline[block / 64] >> (block % 64) & 1 == 1
    }

    fn set(&mut self, block: usize, slot: Slot, inline: bool) {
        self.slots[block] = slot;
        let bit = 1 << (block % 64);
        if inline {
            self.inline[block / 64] |= bit;
        } else {
            self.inline[block / 64] &= !bit;
        }
    }

    fn from_entries(entries: &[Entry]) -> Box<Dense> {
        let mut dense = Dense::empty();
        for entry in entries {
            for block in entry.start()..entry.end() {
                let part = entry.part(block, block + 1);
                let slot = Slot { location: part.location, check: part.check };
                dense.set(block as usize, slot, part.is_inline());
            }
        }
        dense
    }

    /// The same as a list of runs.
    fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for (block, slot) in self.slots.iter().enumerate() {
            if slot.location == Location(0) {
                continue;
            }
            let inline = self.is_inline(block);
            if let Some(last) = entries.last_mut()
                && !inline
                && last.continues_with(block as u32, slot.location, slot.check)
            {
                last.count += 1;
                continue;
            }
            let flag = if inline { INLINE } else { 0 };
            entries.push(Entry {
                first: block as u16,
                count: 1 | flag,
                location: slot.location,
                check: slot.check,
            });
        }
        entries
    }
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
    Dense(Box<Dense>),
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
            Form::Dense(dense) => {
                let slot = dense.slots[block as usize];
                if slot.location == Location(0) {
                    let holes = dense.slots[block as usize..].iter();
                    let count = holes.take_while(|slot| slot.location == Location(0)).count();
                    return Stretch { count: count as u32, place: None };
                }
                let check = if dense.is_inline(block as usize) {
                    Check::Sum(slot.check)
                } else {
                    Check::Header(Location(slot.check))
                };
                Stretch { count: 1, place: Some((slot.location, check)) }
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

    /// Reads the memory that a lookup of `block` will read. The result means nothing.
    pub(crate) fn fetch(&self, block: u32) -> u32 {
        match &self.form {
            Form::Dense(dense) => {
                dense.slots[block as usize].location.0 ^ dense.inline[block as usize / 64] as u32
            }
            Form::Sparse(entries) => entries.get(entries.len() / 2).map_or(0, |entry| entry.check),
        }
    }

    /// Unmaps a range; `freed` is told every place that is no longer mapped.
    pub(crate) fn unmap(&mut self, first: u32, count: u32, freed: &mut impl FnMut(Location, u32)) {
        let end = first + count;
        match &mut self.form {
            Form::Dense(dense) => {
                for slot in &mut dense.slots[first as usize..end as usize] {
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
            Form::Dense(dense) => {
                for (i, sum) in run.checksums.iter().enumerate() {
                    let block = first as usize + i;
                    let old = dense.slots[block].location;
                    if old != Location(0) {
                        freed(old, 1);
                    }
                    let skipped = if run.location == RESERVED { 0 } else { i as u32 };
                    let check = if is_run { run.header.0 } else { *sum };
                    let slot = Slot { location: run.location.offset(skipped), check };
                    dense.set(block, slot, !is_run);
                }
            }
            Form::Sparse(entries) => {
                let at = cut(entries, first, first + count, freed);
                if is_run {
                    insert_run(entries, at, first, run);
                    // A leaf that was dense had a list of up to 512 on the way here.
                    if entries.capacity() > 4 * SPARSE_ENTRIES_FAST
                        && entries.len() < SPARSE_ENTRIES_FAST
                    {
                        entries.shrink_to_fit();
                    }
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

    /// Turns a dense leaf into runs if the coming run from `first` on leaves only a few.
    fn thin_out(&mut self, first: u32, count: u32) {
        let Form::Dense(dense) = &self.form else { return };
        let entries = dense.entries();
        let stays = |entry: &&Entry| entry.start() < first || entry.end() > first + count;
        if entries.iter().filter(stays).count() < SPARSE_ENTRIES_FAST {
            // What the run replaces is still in the list, so that it is reported as freed.
            self.form = Form::Sparse(entries);
        }
    }

    /// Turns a long list into the dense form where that does not take more memory than allowed.
    fn thicken(&mut self) {
        let Form::Sparse(entries) = &self.form else { return };
        if entries.len() <= SPARSE_ENTRIES_FAST {
            return;
        }
        let mapped: u32 = entries.iter().map(|entry| entry.blocks()).sum();
        if entries.len() > SPARSE_ENTRIES_MAX || mapped as usize > SPARSE_ENTRIES_MAX {
            self.form = Form::Dense(Dense::from_entries(entries));
        }
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
                Form::Dense(_) => size_of::<Dense>(),
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
            Form::Dense(dense) => {
                let (bits, body) = body.split_at_mut(size_of_val(&dense.inline));
                for (word, bytes) in dense.inline.iter().zip(bits.chunks_exact_mut(8)) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
                for (slot, bytes) in dense.slots.iter().zip(body.chunks_exact_mut(8)) {
                    bytes[..4].copy_from_slice(&slot.location.0.to_le_bytes());
                    bytes[4..].copy_from_slice(&slot.check.to_le_bytes());
                }
            }
        }
    }

    /// Decodes an image's body; `None` if it breaks the leaf's invariants.
    pub(crate) fn decode(form: LeafForm, body: &[u8]) -> Option<Leaf> {
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("invariant: 4 bytes"));
        if form == LeafForm::Dense {
            let mut dense = Dense::empty();
            let (bits, body) = body.split_at_checked(size_of_val(&dense.inline))?;
            for (inline, bytes) in dense.inline.iter_mut().zip(bits.chunks_exact(8)) {
                *inline = u64::from(word(&bytes[..4])) | u64::from(word(&bytes[4..])) << 32;
            }
            for (slot, bytes) in dense.slots.iter_mut().zip(body.chunks_exact(8)) {
                *slot = Slot { location: Location(word(&bytes[..4])), check: word(&bytes[4..]) };
            }
            return Some(Leaf { form: Form::Dense(dense) });
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
        && before.continues_with(first, run.location, run.header.0)
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
