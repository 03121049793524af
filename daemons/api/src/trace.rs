//! Which trace a request belongs to: W3C Trace Context, `traceparent`. The one type here that has a text form, because the
//! text is what the standard defines.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A request's place in a trace: who began it, and the caller's own part of it.
///
/// Read as level 1 of the standard wants it: version 00 has exactly these four fields; of a later version the same four
/// are read and what follows is ignored. Shown as version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Trace {
    /// The whole trace; never 0.
    pub id: u128,
    /// The part of it that the caller is; never 0.
    pub parent: u64,
    /// Bit 0: somebody records this trace.
    pub flags: u8,
}

/// A text that is no `traceparent`. The standard has it ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTrace;

impl FromStr for Trace {
    type Err = NoTrace;

    fn from_str(text: &str) -> Result<Trace, NoTrace> {
        const LENGTH: usize = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".len();
        let (known, more) = text.split_at_checked(LENGTH).ok_or(NoTrace)?;
        let mut fields = known.split('-');
        let mut hex = |digits: usize| {
            let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            let field = fields.next().filter(|field| field.len() == digits && field.bytes().all(lower));
            u128::from_str_radix(field?, 16).ok()
        };
        let (version, id, parent, flags) = (hex(2), hex(32), hex(16), hex(2));
        let (Some(version), Some(id), Some(parent), Some(flags)) = (version, id, parent, flags) else {
            return Err(NoTrace);
        };
        let follows = more.is_empty() || (version > 0 && more.starts_with('-'));
        if version == 0xff || id == 0 || parent == 0 || !follows {
            return Err(NoTrace);
        }
        let parent = u64::try_from(parent).map_err(|_| NoTrace)?;
        Ok(Trace { id, parent, flags: u8::try_from(flags).map_err(|_| NoTrace)? })
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.id, self.parent, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_standards_example_is_read_and_shown() {
        let trace: Trace = EXAMPLE.parse().unwrap();
        let want =
            Trace { id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, parent: 0x00f0_67aa_0ba9_02b7, flags: 1 };
        assert_eq!((trace, trace.to_string().as_str()), (want, EXAMPLE));
        let later = EXAMPLE.replacen("00", "cc", 1);
        assert_eq!(later.parse(), Ok(want), "a later version, as far as it is known");
        assert_eq!(format!("{later}-more").parse(), Ok(want));
    }

    #[test]
    fn what_is_none_is_ignored() {
        let long = format!("{EXAMPLE}-more");
        let zero_id = EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_parent = EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16));
        let (forbidden, glued) = (EXAMPLE.replacen("00", "ff", 1), EXAMPLE.replacen("00", "01", 1) + "1");
        let (capital, sign) = (EXAMPLE.replace('b', "B"), EXAMPLE.replacen("-4", "-+", 1));
        for text in
            ["", "00", &EXAMPLE[1..], &long, &zero_id, &zero_parent, &forbidden, &glued, &capital, &sign, "ü"]
        {
            assert_eq!(text.parse::<Trace>(), Err(NoTrace), "{text}");
        }
    }
}
