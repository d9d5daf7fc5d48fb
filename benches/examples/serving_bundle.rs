//! Makes what the server is measured with: `cargo run --release -p stage1-benches --example serving_bundle -- DIR`.
//!
//! `DIR/bundle` has a ViT-S/16 of DINOv3's shapes at 224 x 224 with random weights, whose 384 features count as logits of as many
//! classes, and a policy that answers about everything; `DIR/images` has JPEGs of 1920 x 1080. It certifies nothing but the speed.

use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder};
use stage1_benches::{bundle, weights::random};
use stage1_core::{model::preset, preprocess::PreprocessSpec};
use stage1_exporter::{Form, export_embedding_as};
use std::{env, error::Error, fs, path::Path};

const SIDE: usize = 224;
const CLASSES: usize = 384;
const IMAGES: usize = 16;
const OUTPUT: &str = "features";

fn main() -> Result<(), Box<dyn Error>> {
    let dir = env::args().nth(1).ok_or("name the folder to make")?;
    let dir = Path::new(&dir);
    fs::create_dir_all(dir.join("images"))?;
    for i in 0..IMAGES {
        fs::write(dir.join(format!("images/{i:02}.jpg")), picture(i)?)?;
    }
    let weights = random(&preset("dinov3-vits16").ok_or("no such preset")?);
    let model = export_embedding_as(&weights, SIDE, SIDE, &Form::default())?.model;
    let labels = (0..CLASSES).map(|class| format!("class {class}")).collect();
    let preprocess = PreprocessSpec::dinov3(SIDE as u32, SIDE as u32);
    bundle::create(&dir.join("bundle"), &model, OUTPUT, labels, preprocess)
}

/// Waves, edges and noise: its JPEG has about the bytes of a photograph's.
fn picture(i: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    const WIDTH: u32 = 1920;
    const HEIGHT: u32 = 1080;
    let mut noise = 1 + i as u32;
    let image = image::RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let wave =
            |fx: f32, fy: f32| ((x as f32 * fx + y as f32 * fy + i as f32).sin() + 1.0) * 90.0;
        let edge = if (x / (40 + i as u32) + y / 60).is_multiple_of(2) {
            30.0
        } else {
            0.0
        };
        let grain = (noise >> 27) as f32 - 16.0;
        image::Rgb(
            [wave(0.011, 0.007), wave(0.005, 0.013), wave(0.017, 0.003)]
                .map(|v| (v + edge + grain).clamp(0.0, 255.0) as u8),
        )
    });
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 90).write_image(
        &image,
        WIDTH,
        HEIGHT,
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}
