//! Fields: numbers, texts, lists and options, bounded.

use super::super::check::Flaw;
use super::super::limits::TEXT_MAX_BYTES;
use std::collections::BTreeMap;
use std::fmt;

/// Why bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end too early.
    Short {
        /// Bytes needed next.
        expected: usize,
        /// Bytes left.
        found: usize,
    },
    /// Bytes follow the end.
    Long {
        /// How many.
        found: usize,
    },
    /// Another version wrote them.
    Version {
        /// The version known here.
        expected: u16,
        /// Theirs.
        found: u16,
    },
    /// An alternative that is not known.
    Alternative {
        /// Of what.
        of: &'static str,
        /// Its number.
        found: u8,
    },
    /// More entries or bytes than there may be.
    Many {
        /// The bound.
        expected: usize,
        /// Their number.
        found: usize,
    },
    /// A text that is not UTF-8.
    Text,
    /// Keys of a table that do not grow.
    Order,
    /// A value that its type does not allow.
    Value {
        /// The type.
        of: &'static str,
    },
    /// A whole state that cannot have come about.
    Flaw(Flaw),
}

/// Why something cannot be encoded: a text or list is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeError {
    /// The bound.
    pub expected: usize,
    /// Its length.
    pub found: usize,
}

/// Something with an encoding.
pub(super) trait Field: Sized {
    /// Fewest bytes of one.
    const MIN_BYTES: usize;
    /// Most of them in one list.
    const LIST_MAX: usize = 0;
    fn put(&self, writer: &mut Writer);
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// Gathers bytes, and remembers the first thing that was too long.
#[derive(Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    error: Option<EncodeError>,
}

impl Writer {
    pub(super) fn finish(self) -> Result<Vec<u8>, EncodeError> {
        self.error.map_or(Ok(self.bytes), Err)
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn length(&mut self, found: usize, expected: usize) {
        if found > expected {
            self.error.get_or_insert(EncodeError { expected, found });
        }
        (found as u32).put(self);
    }
}

/// Takes bytes from the front.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Reader<'a> {
        Reader { rest }
    }

    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            found => Err(DecodeError::Long { found }),
        }
    }

    pub(super) fn raw(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let short = DecodeError::Short { expected: count, found: self.rest.len() };
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A length of at most `max` entries that are all there, as far as their least size tells.
    fn length(&mut self, max: usize, entry_bytes: usize) -> Result<usize, DecodeError> {
        let found = u32::read(self)? as usize;
        if found > max {
            return Err(DecodeError::Many { expected: max, found });
        }
        let expected = found * entry_bytes;
        if expected > self.rest.len() {
            return Err(DecodeError::Short { expected, found: self.rest.len() });
        }
        Ok(found)
    }
}

macro_rules! number {
    ($($number:ty)*) => {$(
        impl Field for $number {
            const MIN_BYTES: usize = size_of::<$number>();

            fn put(&self, writer: &mut Writer) {
                writer.raw(&self.to_le_bytes());
            }

            fn read(reader: &mut Reader<'_>) -> Result<$number, DecodeError> {
                let bytes = reader.raw(size_of::<$number>())?;
                Ok(<$number>::from_le_bytes(bytes.try_into().expect("invariant: so many bytes")))
            }
        }
    )*};
}

number!(u8 u16 u32 u64);

impl Field for bool {
    const MIN_BYTES: usize = 1;

    fn put(&self, writer: &mut Writer) {
        u8::from(*self).put(writer);
    }

    fn read(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
        match u8::read(reader)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(DecodeError::Alternative { of: "truth", found }),
        }
    }
}

impl Field for [u8; 16] {
    const MIN_BYTES: usize = 16;

    fn put(&self, writer: &mut Writer) {
        writer.raw(self);
    }

    fn read(reader: &mut Reader<'_>) -> Result<[u8; 16], DecodeError> {
        Ok(reader.raw(16)?.try_into().expect("invariant: so many bytes"))
    }
}

impl Field for String {
    const MIN_BYTES: usize = 4;
    const LIST_MAX: usize = super::super::limits::NBD_ADDRESSES_MAX;

    fn put(&self, writer: &mut Writer) {
        writer.length(self.len(), TEXT_MAX_BYTES);
        writer.raw(self.as_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
        let length = reader.length(TEXT_MAX_BYTES, 1)?;
        let text = std::str::from_utf8(reader.raw(length)?).map_err(|_| DecodeError::Text)?;
        Ok(text.to_owned())
    }
}

impl<T: Field> Field for Option<T> {
    const MIN_BYTES: usize = 1;

    fn put(&self, writer: &mut Writer) {
        self.is_some().put(writer);
        if let Some(value) = self {
            value.put(writer);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Option<T>, DecodeError> {
        bool::read(reader)?.then(|| T::read(reader)).transpose()
    }
}

impl<T: Field> Field for Vec<T> {
    const MIN_BYTES: usize = 4;

    fn put(&self, writer: &mut Writer) {
        writer.length(self.len(), T::LIST_MAX);
        self.iter().for_each(|entry| entry.put(writer));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Vec<T>, DecodeError> {
        let length = reader.length(T::LIST_MAX, T::MIN_BYTES)?;
        let mut list = Vec::with_capacity(length);
        for _ in 0..length {
            list.push(T::read(reader)?);
        }
        Ok(list)
    }
}

/// A table, in order of its keys. The bound is that of the values.
impl<K: Field + Ord + Copy, T: Field> Field for BTreeMap<K, T> {
    const MIN_BYTES: usize = 4;

    fn put(&self, writer: &mut Writer) {
        writer.length(self.len(), T::LIST_MAX);
        for (key, value) in self {
            key.put(writer);
            value.put(writer);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<BTreeMap<K, T>, DecodeError> {
        let length = reader.length(T::LIST_MAX, K::MIN_BYTES + T::MIN_BYTES)?;
        let mut table = BTreeMap::new();
        for _ in 0..length {
            let key = K::read(reader)?;
            if table.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DecodeError::Order);
            }
            table.insert(key, T::read(reader)?);
        }
        Ok(table)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Short { expected, found } => {
                write!(f, "{expected} more bytes were expected, {found} are there")
            }
            DecodeError::Long { found } => write!(f, "{found} bytes follow the end"),
            DecodeError::Version { expected, found } => {
                write!(f, "version {found} is not known here, only {expected}; use a newer program")
            }
            DecodeError::Alternative { of, found } => write!(f, "there is no {of} {found}"),
            DecodeError::Many { expected, found } => {
                write!(f, "at most {expected} were expected, not {found}")
            }
            DecodeError::Text => f.write_str("a text is not UTF-8"),
            DecodeError::Order => f.write_str("a table is not in order"),
            DecodeError::Value { of } => write!(f, "this cannot be a {of}"),
            DecodeError::Flaw(flaw) => write!(f, "the state cannot have come about ({flaw:?})"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EncodeError { expected, found } = self;
        write!(f, "a name, address or list of {found} is too long; use at most {expected}")
    }
}

impl std::error::Error for EncodeError {}
