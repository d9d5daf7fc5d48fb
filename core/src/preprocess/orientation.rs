//! How a camera was held, from EXIF or, where that doesn't say, from XMP: the rules of Pillow's `exif_transpose`.

use image::metadata::Orientation;

/// The orientation that the metadata state; upright where they are absent, unreadable or say nothing.
pub(super) fn stated(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    exif.and_then(in_exif)
        .or_else(|| xmp.and_then(in_xmp))
        .unwrap_or(Orientation::NoTransforms)
}

/// WebP writers may prefix the data as JPEG does.
fn in_exif(exif: &[u8]) -> Option<Orientation> {
    Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
}

/// The digit behind `tiff:Orientation=` or in the element of that name.
fn in_xmp(xmp: &[u8]) -> Option<Orientation> {
    const KEY: &[u8] = b"tiff:Orientation";
    let at = xmp.windows(KEY.len()).position(|window| window == KEY)?;
    let value = &xmp[at + KEY.len()..];
    let value = value.strip_prefix(b"=\"").or(value.strip_prefix(b">"))?;
    let digit = value.first()?.checked_sub(b'0')?;
    Orientation::from_exif(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Data<'a> = Option<&'a [u8]>;

    #[test]
    fn xmp_speaks_where_exif_is_silent() {
        let attribute = br#"<rdf:Description tiff:Orientation="6"/>"#;
        let element = b"<tiff:Orientation>6</tiff:Orientation>";
        let upright = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0";
        let cases: [(&str, Data, Data, u8); 7] = [
            ("nothing", None, None, 1),
            ("attribute", None, Some(attribute), 6),
            ("element", None, Some(element), 6),
            ("EXIF first", Some(upright), Some(attribute), 1),
            ("broken EXIF", Some(b"II"), Some(attribute), 6),
            ("no digit", None, Some(b"tiff:Orientation=\"x\""), 1),
            ("cut off", None, Some(b"tiff:Orientation=\""), 1),
        ];
        for (name, exif, xmp, want) in cases {
            assert_eq!(stated(exif, xmp).to_exif(), want, "{name}");
        }
    }
}
