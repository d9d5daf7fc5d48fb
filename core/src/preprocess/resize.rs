use super::{Filter, spec::Size};
use fast_image_resize::{
    FilterType, ImageView, PixelTrait, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::{F32x3, U8x3},
};
use image::RgbImage;

/// Pixels of a strip of rows that is converted to floats and resized while it is in the cache.
const STRIP_PIXELS: u32 = 1 << 15;
/// The fewest rows of a strip, so that the filter's weights, computed per strip, don't dominate.
const STRIP_ROWS: u32 = 16;

/// A resizer with its buffers, which grow to the largest picture seen and are reused.
///
/// The passes are run one by one, since with whole grey levels in between their order shows, and the library's own two-pass
/// resize of 8-bit pictures always starts with the vertical one.
#[derive(Clone, Default)]
pub(super) struct Scratch {
    resizer: Resizer,
    bytes: Buffers<U8x3>,
    floats: Buffers<F32x3>,
    strip: Vec<F32x3>,
}

#[derive(Clone, Default)]
struct Buffers<P> {
    /// After the first pass.
    half_way: Vec<P>,
    /// After the second pass.
    done: Vec<P>,
}

impl Scratch {
    /// Resizes `image` to `target`, rounding to whole grey levels after each of two passes: the first brings it to the
    /// size `between`, which shares one side with the picture and one with the target. No size may be zero.
    pub(super) fn resize_bytes(
        &mut self,
        image: &RgbImage,
        between: Size,
        target: Size,
        filter: Filter,
    ) -> &[U8x3] {
        let options = &options(filter);
        let source = TypedImageRef::from_buffer(image.width(), image.height(), image.as_raw())
            .expect("an image has three bytes per pixel");
        let half_way = grown(&mut self.bytes.half_way, between);
        convolve(&mut self.resizer, &source, half_way, between.0, options);
        let half_way = view(half_way, between);
        let done = grown(&mut self.bytes.done, target);
        convolve(&mut self.resizer, &half_way, done, target.0, options);
        done
    }

    /// Resizes `image` to `target` in floats of grey levels (0..255, not clipped). No size may be zero.
    pub(super) fn resize_floats(
        &mut self,
        image: &RgbImage,
        target: Size,
        filter: Filter,
    ) -> &[F32x3] {
        let options = &options(filter);
        let between = (target.0, image.height());
        let half_way = grown(&mut self.floats.half_way, between);
        resize_rows(
            &mut self.resizer,
            image,
            &mut self.strip,
            half_way,
            target.0,
            options,
        );
        let half_way = view(half_way, between);
        let done = grown(&mut self.floats.done, target);
        convolve(&mut self.resizer, &half_way, done, target.0, options);
        done
    }
}

/// The horizontal pass of a float resize, by strips: a float copy of the whole picture would take 12 bytes a pixel.
fn resize_rows(
    resizer: &mut Resizer,
    image: &RgbImage,
    strip: &mut Vec<F32x3>,
    done: &mut [F32x3],
    width: u32,
    options: &ResizeOptions,
) {
    let source_width = image.width();
    let rows = (STRIP_PIXELS / source_width).max(STRIP_ROWS);
    let row_bytes = 3 * source_width as usize;
    let strips = image.as_raw().chunks(rows as usize * row_bytes);
    for (bytes, done) in strips.zip(done.chunks_mut(rows as usize * width as usize)) {
        let rows = (bytes.len() / row_bytes) as u32;
        let floats = grown(strip, (source_width, rows));
        for (float, byte) in floats.iter_mut().zip(bytes.as_chunks().0) {
            float.0 = byte.map(f32::from);
        }
        convolve(
            resizer,
            &view(floats, (source_width, rows)),
            done,
            width,
            options,
        );
    }
}

/// Resizes `source` into `target`, whose rows are `width` long. Equal sizes are copied.
fn convolve<P: PixelTrait>(
    resizer: &mut Resizer,
    source: &impl ImageView<Pixel = P>,
    target: &mut [P],
    width: u32,
    options: &ResizeOptions,
) {
    let height = (target.len() / width as usize) as u32;
    let mut target = TypedImage::from_pixels_slice(width, height, target)
        .expect("the target is made of whole rows");
    resizer
        .resize_typed(source, &mut target, options)
        .expect("the crop box is the whole source");
}

fn options(filter: Filter) -> ResizeOptions {
    let filter = match filter {
        Filter::Bilinear => FilterType::Bilinear,
        Filter::Bicubic => FilterType::CatmullRom,
    };
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter))
}

/// The first `width` x `height` pixels of a buffer that never shrinks.
fn grown<P: Copy + Default>(buffer: &mut Vec<P>, (width, height): Size) -> &mut [P] {
    let pixels = width as usize * height as usize;
    if buffer.len() < pixels {
        buffer.resize(pixels, P::default());
    }
    &mut buffer[..pixels]
}

fn view<P>(pixels: &[P], (width, height): Size) -> TypedImageRef<'_, P> {
    TypedImageRef::new(width, height, pixels).expect("the buffer was grown to this size")
}
