//! Trace identities as W3C's Trace Context has them (<https://www.w3.org/TR/trace-context/>), which OpenTelemetry reads.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Whose part a request is: taken from its `traceparent`, or begun here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) trace: u128,
    /// This server's part.
    pub(crate) span: u64,
    /// Whoever called, if they said so.
    pub(crate) parent: Option<u64>,
    is_sampled: bool,
}

impl Trace {
    /// Goes on with `traceparent` if it is a valid one; a new trace if not.
    pub(crate) fn of(traceparent: Option<&str>) -> Self {
        let span = identity();
        traceparent.and_then(parse).map_or_else(
            || Self {
                trace: u128::from(identity()) << 64 | u128::from(identity()),
                span,
                parent: None,
                is_sampled: false,
            },
            |(trace, parent, is_sampled)| Self {
                trace,
                span,
                parent: Some(parent),
                is_sampled,
            },
        )
    }

    pub(crate) fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl fmt::Display for Trace {
    /// The `traceparent` of this server's part.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }
}

fn parse(text: &str) -> Option<(u128, u64, bool)> {
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Later versions may have more parts; ff is forbidden.
    if hex(version, 2)? == 0xff || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let (trace, span, flags) = (hex(trace, 32)?, hex(span, 16)? as u64, hex(flags, 2)?);
    (trace != 0 && span != 0).then_some((trace, span, flags & 1 == 1))
}

/// Lower case only, as the standard has it.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let fits = text.len() == digits && text.bytes().all(is_hex);
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// Not zero; unlike any other of this process, and of other processes with all likelihood: names, not secrets.
fn identity() -> u64 {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut hasher = KEYS.get_or_init(RandomState::new).build_hasher();
    hasher.write_u64(COUNTER.fetch_add(1, Ordering::Relaxed));
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_parent_is_gone_on_with_and_anything_else_begins_anew() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let cases = [
            ("sampled", format!("00-{trace}-b7ad6b7169203331-01"), true),
            (
                "not sampled",
                format!("00-{trace}-b7ad6b7169203331-00"),
                true,
            ),
            (
                "a later version",
                format!("01-{trace}-b7ad6b7169203331-01-more"),
                true,
            ),
            (
                "more in version 0",
                format!("00-{trace}-b7ad6b7169203331-01-more"),
                false,
            ),
            (
                "upper case",
                format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()),
                false,
            ),
            (
                "no trace",
                format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
                false,
            ),
            ("no span", format!("00-{trace}-0000000000000000-01"), false),
            (
                "version ff",
                format!("ff-{trace}-b7ad6b7169203331-01"),
                false,
            ),
            ("nonsense", "nonsense".to_owned(), false),
        ];
        for (name, text, goes_on) in cases {
            let got = Trace::of(Some(&text));
            assert_eq!(got.trace_id() == trace, goes_on, "{name}");
            assert_eq!(got.parent.is_some(), goes_on, "{name}");
            let again = Trace::of(Some(&got.to_string()));
            assert_eq!(
                (again.trace, again.parent),
                (got.trace, Some(got.span)),
                "{name}"
            );
        }
        assert!(
            Trace::of(Some(&format!("00-{trace}-b7ad6b7169203331-01")))
                .to_string()
                .ends_with("-01")
        );
        assert_ne!(Trace::of(None).trace, Trace::of(None).trace);
    }
}
