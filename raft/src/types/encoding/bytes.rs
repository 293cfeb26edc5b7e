//! Putting numbers and texts into bytes, and taking them out again.
//!
//! Must never know: what they mean.

use super::EncodingError;

/// Puts a text of at most 65,535 bytes behind its length.
pub(super) fn put_text(text: &str, into: &mut Vec<u8>) {
    let len = u16::try_from(text.len()).expect("invariant: texts are bounded");
    into.extend(len.to_le_bytes());
    into.extend(text.as_bytes());
}

/// Takes bytes from the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// All of the bytes.
    pub(crate) fn new(bytes: &'a [u8]) -> Bytes<'a> {
        Bytes(bytes)
    }

    /// The bytes behind their version, which must be this one.
    pub(crate) fn of_version(expected: u8, bytes: &'a [u8]) -> Result<Bytes<'a>, EncodingError> {
        let mut bytes = Bytes(bytes);
        match bytes.u8()? {
            found if found == expected => Ok(bytes),
            found => Err(EncodingError::Version { expected, found }),
        }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], EncodingError> {
        let Some((taken, rest)) = self.0.split_at_checked(count) else {
            return Err(EncodingError::Short { expected: count, found: self.0.len() });
        };
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], EncodingError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, EncodingError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, EncodingError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, EncodingError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, EncodingError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A boolean: nothing but 0 and 1.
    pub(crate) fn flag(&mut self, of: &'static str) -> Result<bool, EncodingError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(EncodingError::Kind { of, found }),
        }
    }

    pub(super) fn text(&mut self, of: &'static str, max: usize) -> Result<&'a str, EncodingError> {
        let len = bounded(of, max, self.u16()?.into())?;
        std::str::from_utf8(self.take(len)?).map_err(|_| EncodingError::Text)
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), EncodingError> {
        match self.0.len() {
            0 => Ok(()),
            found => Err(EncodingError::Long { found }),
        }
    }
}

/// `found`, if it is at most `expected`.
pub(crate) fn bounded(
    of: &'static str,
    expected: usize,
    found: usize,
) -> Result<usize, EncodingError> {
    match found <= expected {
        true => Ok(found),
        false => Err(EncodingError::Bound { of, expected, found }),
    }
}
