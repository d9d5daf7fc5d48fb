//! Whether a JPEG file is all there. The decoder fills a missing end with grey, which must not pass for a picture.

const END_OF_IMAGE: u8 = 0xd9;

/// Does the file reach its end-of-image marker?
///
/// Thumbnails inside segments don't count: segments are skipped by their length.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some((marker, after)) = next_marker(rest) {
        rest = match marker {
            END_OF_IMAGE => return true,
            // Start of image, restarts, TEM: no payload.
            0x01 | 0xd0..=0xd8 => after,
            _ => match skip_segment(after) {
                Some(after) => after,
                None => return false,
            },
        };
    }
    false
}

/// The next marker's code and the bytes behind it, over entropy-coded data (where 0xff is followed by 0) and fill bytes.
fn next_marker(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let mut rest = bytes;
    loop {
        let at = rest.iter().position(|&byte| byte == 0xff)?;
        rest = &rest[at + 1..];
        match *rest.first()? {
            0x00 | 0xff => {}
            code => return Some((code, &rest[1..])),
        }
    }
}

/// The bytes behind a segment, which starts with its own length (big-endian, the two bytes of the length included).
fn skip_segment(bytes: &[u8]) -> Option<&[u8]> {
    let length = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
    bytes.get(usize::from(length)..)
}

#[cfg(test)]
mod tests {
    use super::is_complete;

    #[test]
    fn walks_to_the_end_marker() {
        let soi_app0 = [0xff, 0xd8, 0xff, 0xe1, 0, 4];
        let cases: [(&str, &[u8], bool); 6] = [
            ("end marker inside a segment only", &[0xff, 0xd9], false),
            ("end marker", &[1, 2, 0xff, 0xd9], true),
            ("fill bytes", &[1, 2, 0xff, 0xff, 0xff, 0xd9], true),
            (
                "scan data with stuffing and a restart",
                &[
                    1, 2, 0xff, 0xda, 0, 2, 7, 0xff, 0, 0xd9, 0xff, 0xd0, 7, 0xff, 0xd9, 5,
                ],
                true,
            ),
            ("scan data only", &[1, 2, 0xff, 0xda, 0, 2, 7, 0xff], false),
            ("segment beyond the end", &[1, 2, 0xff, 0xda, 9, 2], false),
        ];
        for (name, tail, want) in cases {
            assert_eq!(is_complete(&[&soi_app0, tail].concat()), want, "{name}");
        }
    }
}
