use image::{DynamicImage, ImageBuffer, Pixel, Rgb, RgbImage};

/// 8-bit RGB by the rules of [`super::decode`], or the name of a colour type that has none.
pub(super) fn to_rgb8(image: DynamicImage) -> Result<RgbImage, String> {
    let has_integer_samples = matches!(
        image,
        DynamicImage::ImageLuma8(_)
            | DynamicImage::ImageLumaA8(_)
            | DynamicImage::ImageRgb8(_)
            | DynamicImage::ImageRgba8(_)
    );
    match image {
        DynamicImage::ImageLuma16(image) => Ok(high_bytes(&image)),
        DynamicImage::ImageLumaA16(image) => Ok(high_bytes(&image)),
        DynamicImage::ImageRgb16(image) => Ok(high_bytes(&image)),
        DynamicImage::ImageRgba16(image) => Ok(high_bytes(&image)),
        image if has_integer_samples => Ok(image.into_rgb8()),
        other => Err(format!("{:?} samples have no fixed range", other.color())),
    }
}

/// The high byte of every sample, as Pillow reads 16-bit RGB; grey is copied into the three channels, alpha dropped.
fn high_bytes<P: Pixel<Subpixel = u16>>(image: &ImageBuffer<P, Vec<u16>>) -> RgbImage {
    let high = |sample: u16| sample.to_be_bytes()[0];
    let pixels = image.pixels().flat_map(|pixel| match *pixel.channels() {
        [grey] | [grey, _] => [high(grey); 3],
        [red, green, blue, ..] => [high(red), high(green), high(blue)],
        [] => [0; 3],
    });
    ImageBuffer::<Rgb<u8>, _>::from_raw(image.width(), image.height(), pixels.collect())
        .expect("three samples were collected for every pixel")
}
