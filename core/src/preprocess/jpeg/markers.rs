//! The markers of a JPEG file, without looking into its data.

use std::{borrow::Cow, ops::Range};

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;

/// A marker with its segment, if it has one.
struct Segment {
    code: u8,
    /// From the marker's 0xff to the segment's end.
    range: Range<usize>,
}

/// Does the file reach its end-of-image marker? Thumbnails inside segments don't count: segments are skipped by length.
pub(super) fn reach_the_end(bytes: &[u8]) -> bool {
    segments(bytes).any(|segment| segment.code == END_OF_IMAGE)
}

/// A run of ones, which no Huffman code is made of. Decoders go on with zeros when a scan ends too early, and call the rest of the
/// picture grey; this they call damage.
const STOP: [u8; 16] = [
    0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0,
];

/// The file with that behind its data, where a decoder doesn't look that has found all of the picture.
pub(super) fn with_stop(bytes: &[u8]) -> Vec<u8> {
    let end = segments(bytes).find(|segment| segment.code == END_OF_IMAGE);
    let mut end = end.map_or(bytes.len(), |segment| segment.range.start);
    // Any number of these may precede a marker, and belongs to it.
    while end > 0 && bytes[end - 1] == 0xff {
        end -= 1;
    }
    [&bytes[..end], &STOP, &bytes[end..]].concat()
}

/// The file without bytes between the segments of its header, which some programs leave there, which readers ignore, and
/// which the strict decoder takes for damage.
pub(super) fn without_junk(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut header = Vec::new();
    for segment in segments(bytes) {
        let is_scan = segment.code == START_OF_SCAN;
        header.push(segment.range);
        if is_scan {
            break;
        }
    }
    let scan = header.last().map_or(bytes.len(), |range| range.end);
    header.push(scan..bytes.len());
    if header.windows(2).all(|pair| pair[0].end == pair[1].start) {
        return Cow::Borrowed(bytes);
    }
    let parts = header.into_iter().flat_map(|part| &bytes[part]);
    Cow::Owned(parts.copied().collect())
}

/// The segments up to the first that is cut off.
fn segments(bytes: &[u8]) -> impl Iterator<Item = Segment> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = next_marker(bytes, at)?;
        let code = bytes[start + 1];
        at = start + 2 + payload(bytes, start + 2, code)?;
        Some(Segment {
            code,
            range: start..at,
        })
    })
}

/// Where the next marker starts, over entropy-coded data (where 0xff is followed by 0) and fill bytes.
fn next_marker(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        match *bytes.get(at + 1)? {
            0x00 => at += 2,
            0xff => at += 1,
            _ => return Some(at),
        }
    }
}

/// The length of the data that belong to a marker: none, or as the first two bytes (big-endian, themselves included) say.
fn payload(bytes: &[u8], at: usize, code: u8) -> Option<usize> {
    if matches!(code, 0x01 | 0xd0..=0xd9) {
        return Some(0);
    }
    let length = u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]);
    let length = usize::from(length).max(2);
    (at + length <= bytes.len()).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: [u8; 8] = [0xff, 0xd8, 0xff, 0xe1, 0, 4, 0xff, 0xd9];

    #[test]
    fn the_end_is_looked_for_outside_of_segments() {
        let cases: [(&str, &[u8], bool); 6] = [
            ("only in a segment", &[], false),
            ("end", &[0xff, 0xd9], true),
            ("fill bytes", &[0xff, 0xff, 0xff, 0xd9], true),
            (
                "scan data with stuffing and a restart",
                &[
                    0xff, 0xda, 0, 2, 7, 0xff, 0, 0xd9, 0xff, 0xd0, 7, 0xff, 0xd9, 5,
                ],
                true,
            ),
            ("scan without end", &[0xff, 0xda, 0, 2, 7, 0xff], false),
            ("segment beyond the end", &[0xff, 0xda, 9, 2], false),
        ];
        for (name, tail, want) in cases {
            assert_eq!(reach_the_end(&[&START, tail].concat()), want, "{name}");
        }
    }

    #[test]
    fn junk_is_cut_out_of_the_header_only() {
        let scan = [0xff, 0xda, 0, 2, 7, 8, 9, 0xff, 0xd9, 1];
        let clean = [&START[..], &scan].concat();
        assert!(matches!(without_junk(&clean), Cow::Borrowed(_)));
        let cases: [(&str, &[u8]); 3] = [
            ("zeros", &[0, 0, 0]),
            ("fill bytes", &[0xff, 0xff]),
            ("stuffing", &[0xff, 0, 5]),
        ];
        for (name, junk) in cases {
            let dirty = [&START[..], junk, &scan].concat();
            assert_eq!(*without_junk(&dirty), *clean, "{name}");
        }
    }

    #[test]
    fn the_stop_precedes_the_end_with_its_fill_bytes() {
        let start = [&START[..], &[0xff, 0xda, 0, 2, 7, 0xff, 0]].concat();
        for end in [&[0xff, 0xd9, 5][..], &[0xff, 0xff, 0xff, 0xd9]] {
            let stopped = with_stop(&[&start, end].concat());
            assert_eq!(stopped, [&start[..], &STOP, end].concat());
        }
    }
}
