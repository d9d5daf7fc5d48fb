use super::{
    Filter,
    spec::Size,
    taps::{self, Taps},
};
use fast_image_resize::{
    FilterType, ImageView, PixelTrait, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::U8x3,
};
use image::RgbImage;

/// A resizer with its buffers, which grow to the largest picture seen and are reused.
#[derive(Clone, Default)]
pub(super) struct Scratch {
    resizer: Resizer,
    bytes: Bytes,
    floats: Floats,
}

#[derive(Clone, Default)]
struct Bytes {
    /// After the first pass.
    half_way: Vec<U8x3>,
    /// After the second pass.
    done: Vec<U8x3>,
}

#[derive(Clone, Default)]
struct Floats {
    /// A row after the vertical pass.
    row: Vec<[f32; 3]>,
    /// After the horizontal pass.
    done: Vec<[f32; 3]>,
}

impl Scratch {
    /// Resizes `image` to `target`, rounding to whole grey levels after each of two passes: the first brings it to the
    /// size `between`, which shares one side with the picture and one with the target. No size may be zero.
    ///
    /// The passes are run one by one, since with whole grey levels in between their order shows, and the library's own
    /// two-pass resize of 8-bit pictures always starts with the vertical one.
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
    ) -> &[[f32; 3]] {
        let (width, height) = target;
        let columns = taps::of(image.width(), width, filter);
        let rows = taps::of(image.height(), height, filter);
        let row = grown(&mut self.floats.row, (image.width(), 1));
        let done = grown(&mut self.floats.done, target);
        for (out, taps) in done.chunks_exact_mut(width as usize).zip(&rows) {
            add_rows(image, taps, row.as_flattened_mut());
            add_columns(row, &columns, out);
        }
        done
    }
}

/// The vertical pass comes first: the source is read as it lies, row by row, and the loop over a row's bytes is one that the
/// compiler vectorises, while only as many rows as the target has are left for the horizontal one.
fn add_rows(image: &RgbImage, taps: &Taps, out: &mut [f32]) {
    out.fill(0.0);
    let rows = image.as_raw().chunks_exact(out.len()).skip(taps.start);
    for (row, weight) in rows.zip(&taps.weights) {
        for (sum, level) in out.iter_mut().zip(row) {
            *sum += weight * f32::from(*level);
        }
    }
}

/// The horizontal pass of a row.
fn add_columns(row: &[[f32; 3]], columns: &[Taps], out: &mut [[f32; 3]]) {
    for (out, taps) in out.iter_mut().zip(columns) {
        let mut sum = [0.0; 3];
        for (pixel, weight) in row[taps.start..].iter().zip(&taps.weights) {
            for (sum, level) in sum.iter_mut().zip(pixel) {
                *sum += weight * level;
            }
        }
        *out = sum;
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
