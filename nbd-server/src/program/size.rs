//! Sizes as people write them: `4096`, `512M`, `8G`, `1T`, in binary units.
//!
//! Must never know: which sizes make sense where.

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use std::str::FromStr;

const UNITS: [(char, u32); 6] = [('K', 10), ('M', 20), ('G', 30), ('T', 40), ('P', 50), ('E', 60)];

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let wrong = || format!("{text:?} is not a size: write 4096, 512M, 8G or 1T");
        let unit = text.chars().last().map(|last| last.to_ascii_uppercase());
        let shift = UNITS.iter().find(|(letter, _)| Some(*letter) == unit).map(|(_, shift)| *shift);
        let digits = if shift.is_some() { &text[..text.len() - 1] } else { text };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let too_large = || format!("{text:?} is larger than any size can be");
        let number: u64 = digits.parse().map_err(|_| too_large())?;
        number.checked_mul(1 << shift.unwrap_or(0)).map(Size).ok_or_else(too_large)
    }
}

/// The shortest exact way to write it.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, shift) in UNITS.iter().rev() {
            if self.0 > 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{letter}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Three digits and a unit, for people.
pub(crate) fn rounded(bytes: u64) -> String {
    match UNITS.iter().rev().find(|(_, shift)| bytes >= 1 << shift) {
        None => format!("{bytes} B"),
        Some((letter, shift)) => {
            let number = bytes as f64 / (1u64 << shift) as f64;
            let digits = if number < 10.0 { 2 } else { usize::from(number < 100.0) };
            format!("{number:.digits$} {letter}iB")
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 4096, \"512M\" or \"8G\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
                u64::try_from(number).map(Size).map_err(|_| E::custom("a size is not negative"))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Size, E> {
                Ok(Size(number))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [("4096", 4096), ("512M", 512 << 20), ("8g", 8 << 30), ("1T", 1 << 40)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        assert_eq!("0".parse(), Ok(Size(0)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "G", "-1", "+1", "1.5G", "8X", "8GB", " 8G", "99999999999999999999", "16E"]
        {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert!("\u{1F600}".parse::<Size>().is_err());
    }

    #[test]
    fn sizes_are_shown_as_they_are_read() {
        for text in ["4097", "4K", "512M", "8G", "3T", "1E"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!(rounded(1023), "1023 B");
        assert_eq!(rounded(1536), "1.50 KiB");
        assert_eq!(rounded(100 << 30), "100 GiB");
    }
}
