//! An export in memory: sparse, for tests and for measuring the server without a disk.
//!
//! Invariant: a block that is not in the map reads as zeroes.
//! Must never know: anything but the [`Export`] seam. Nothing here is durable.

use crate::export::{Export, ExportInfo, Exports, Extent, ReadData};
use ashlar_engine::buffer::{Buffer, BufferPool};
use ashlar_engine::units::BLOCK_SIZE_BYTES;
use ashlar_engine::{Error, ErrorKind, Result};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

const BLOCK: u64 = BLOCK_SIZE_BYTES as u64;

/// A sparse range of bytes in memory.
#[derive(Debug)]
pub struct MemoryExport {
    info: ExportInfo,
    pool: BufferPool,
    blocks: RefCell<BTreeMap<u64, Box<[u8]>>>,
}

/// A part of a range that lies in one block.
struct Cut {
    block: u64,
    /// Where it begins in the block.
    start: usize,
    length: usize,
}

fn cuts(offset: u64, length: u64) -> impl Iterator<Item = Cut> {
    let mut at = offset;
    let end = offset + length;
    std::iter::from_fn(move || {
        let start = at % BLOCK;
        let length = (end - at).min(BLOCK - start);
        let cut = Cut { block: at / BLOCK, start: start as usize, length: length as usize };
        at += length;
        (length > 0).then_some(cut)
    })
}

impl MemoryExport {
    /// An export that reads as zeroes. Read buffers come from `pool`.
    #[must_use]
    pub fn new(name: &str, size_bytes: u64, pool: BufferPool) -> MemoryExport {
        let info = ExportInfo {
            name: name.to_owned(),
            description: "memory".to_owned(),
            size_bytes,
            read_only: false,
            preferred_block_bytes: BLOCK_SIZE_BYTES as u32,
        };
        MemoryExport { info, pool, blocks: RefCell::default() }
    }

    /// The same, refusing writes.
    #[must_use]
    pub fn read_only(mut self) -> MemoryExport {
        self.info.read_only = true;
        self
    }

    fn fill(&self, offset: u64, data: &[u8]) {
        let mut blocks = self.blocks.borrow_mut();
        let mut data = data;
        for Cut { block, start, length } in cuts(offset, data.len() as u64) {
            let (part, rest) = data.split_at(length);
            let bytes = blocks.entry(block).or_insert_with(|| [0; BLOCK_SIZE_BYTES].into());
            bytes[start..start + length].copy_from_slice(part);
            data = rest;
        }
    }

    fn clear(&self, offset: u64, length: u64, keep: bool) {
        let mut blocks = self.blocks.borrow_mut();
        if keep {
            for Cut { block, .. } in cuts(offset, length) {
                blocks.entry(block).or_insert_with(|| [0; BLOCK_SIZE_BYTES].into());
            }
        }
        let (first, last) = (offset / BLOCK, (offset + length).div_ceil(BLOCK));
        let present: Vec<u64> = blocks.range(first..last).map(|(block, _)| *block).collect();
        for block in present {
            let start = offset.saturating_sub(block * BLOCK) as usize;
            let end = (offset + length - block * BLOCK).min(BLOCK) as usize;
            if start == 0 && end == BLOCK_SIZE_BYTES && !keep {
                blocks.remove(&block);
            } else if let Some(bytes) = blocks.get_mut(&block) {
                bytes[start..end].fill(0);
            }
        }
    }

    /// Whether the block at `offset` is present, and where that changes, `end` at the latest.
    fn run(&self, offset: u64, end: u64) -> (bool, u64) {
        let blocks = self.blocks.borrow();
        let mut block = offset / BLOCK;
        let present = blocks.contains_key(&block);
        if present {
            while block * BLOCK < end && blocks.contains_key(&block) {
                block += 1;
            }
        } else {
            let next = blocks.range((Bound::Excluded(block), Bound::Unbounded)).next();
            block = next.map_or(u64::MAX / BLOCK, |(block, _)| *block);
        }
        (present, (block * BLOCK).min(end))
    }
}

impl Export for MemoryExport {
    fn info(&self) -> ExportInfo {
        self.info.clone()
    }

    async fn read(&self, offset: u64, length: u32) -> Result<ReadData> {
        let (present, run_end) = self.run(offset, offset + u64::from(length));
        if !present && run_end == offset + u64::from(length) {
            return Ok(ReadData::Zeroes);
        }
        let mut buffer = self.pool.allocate(length as usize);
        let blocks = self.blocks.borrow();
        let mut at = 0;
        for Cut { block, start, length } in cuts(offset, u64::from(length)) {
            let target = &mut buffer[at..at + length];
            match blocks.get(&block) {
                Some(bytes) => target.copy_from_slice(&bytes[start..start + length]),
                None => target.fill(0),
            }
            at += length;
        }
        Ok(ReadData::Whole(buffer))
    }

    async fn write(&self, offset: u64, data: Buffer) -> Result<()> {
        self.fill(offset, &data);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u64, allocate: bool) -> Result<()> {
        self.clear(offset, length, allocate);
        Ok(())
    }

    async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        self.clear(offset, length, false);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn cache(&self, _offset: u64, _length: u64) -> Result<()> {
        Ok(())
    }

    async fn block_status(
        &self,
        offset: u64,
        length: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        let end = offset + length;
        let mut at = offset;
        let mut extents = Vec::new();
        while at < end && extents.len() < extents_max {
            let (present, next) = self.run(at, end);
            extents.push(Extent { length_bytes: next - at, hole: !present, zero: !present });
            at = next;
        }
        Ok(extents)
    }
}

/// Exports by name, fixed when they are made.
#[derive(Debug)]
pub struct MemoryExports {
    exports: BTreeMap<String, Rc<MemoryExport>>,
}

impl MemoryExports {
    /// These exports, by their names.
    #[must_use]
    pub fn new(exports: impl IntoIterator<Item = MemoryExport>) -> MemoryExports {
        let named = exports.into_iter().map(|one| (one.info.name.clone(), Rc::new(one)));
        MemoryExports { exports: named.collect() }
    }
}

impl Exports for MemoryExports {
    type Export = MemoryExport;

    fn list(&self, after: &str, names_max: usize) -> Vec<String> {
        let later = self.exports.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        later.take(names_max).map(|(name, _)| name.clone()).collect()
    }

    fn open(&self, name: &str) -> Result<Rc<MemoryExport>> {
        let found = match (name, self.exports.len()) {
            ("", 1) => self.exports.values().next(),
            _ => self.exports.get(name),
        };
        let missing = || Error::new(ErrorKind::NotFound, "no export of that name");
        found.map(Rc::clone).ok_or_else(missing)
    }
}
