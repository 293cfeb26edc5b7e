//! Values by number, numbers reused.
//!
//! Invariant: a key of a removed value never finds another one (it carries the slot's generation).
//! Must never know: what the values are.

/// Ends the list of empty slots.
const NONE: u32 = u32::MAX;

enum Slot<T> {
    Empty { next: u32 },
    Full(T),
}

/// Values by key. Keys are never 0.
pub(super) struct Slab<T> {
    slots: Vec<(u32, Slot<T>)>,
    first_empty: u32,
    len: usize,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { slots: Vec::new(), first_empty: NONE, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, value: T) -> u64 {
        self.len += 1;
        if self.first_empty == NONE {
            let index = u32::try_from(self.slots.len()).expect("invariant: memory ends before");
            self.slots.push((1, Slot::Full(value)));
            return key(index, 1);
        }
        let index = self.first_empty;
        let (generation, slot) = &mut self.slots[index as usize];
        let Slot::Empty { next } = *slot else { unreachable!("a full slot in the empty list") };
        *slot = Slot::Full(value);
        self.first_empty = next;
        key(index, *generation)
    }

    /// Takes the value of `key` out, if it is still there.
    pub(super) fn remove(&mut self, key: u64) -> Option<T> {
        let (index, generation) = split(key);
        let (current, slot) = self.slots.get_mut(index as usize)?;
        if *current != generation || matches!(slot, Slot::Empty { .. }) {
            return None;
        }
        // A generation is never 0, so that a key never is.
        *current = current.wrapping_add(1).max(1);
        let removed = std::mem::replace(slot, Slot::Empty { next: self.first_empty });
        self.first_empty = index;
        self.len -= 1;
        match removed {
            Slot::Full(value) => Some(value),
            Slot::Empty { .. } => None,
        }
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let (index, generation) = split(key);
        match self.slots.get_mut(index as usize) {
            Some((current, Slot::Full(value))) if *current == generation => Some(value),
            _ => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, (generation, slot))| match slot {
            Slot::Full(value) => Some((key(index as u32, *generation), value)),
            Slot::Empty { .. } => None,
        })
    }
}

fn key(index: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}

fn split(key: u64) -> (u32, u32) {
    (key as u32, (key >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_finds_nothing() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        let second = slab.insert('b');
        assert_eq!(slab.remove(first), Some('a'));
        let third = slab.insert('c');
        assert_eq!(third as u32, first as u32, "the slot is reused");
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.len(), 2);
        let all: Vec<_> = slab.iter().map(|(key, &value)| (key, value)).collect();
        assert_eq!(all, [(third, 'c'), (second, 'b')]);
        assert_eq!((slab.remove(third), slab.remove(third)), (Some('c'), None));
    }
}
