//! The images of `configs/minimal.yaml`: two colours on random blocks, told apart by anything, generated in a moment.

use std::path::Path;

use anyhow::Result;

use super::images::write_png;
use crate::digest;
use crate::files;
use crate::progress::say;

/// Each class with the strength of red, green and blue.
const CLASSES: [(&str, [u32; 3]); 2] = [("blue", [1, 2, 4]), ("red", [4, 2, 1])];
const PER_CLASS: usize = 40;
/// The side of an image, and of the blocks it is made of, in pixels.
const SIDE: usize = 32;
const BLOCK: usize = 4;

/// Makes sure that `folder/images` holds the images.
pub(crate) fn provide(folder: &Path) -> Result<()> {
    let target = folder.join("images");
    if target.exists() {
        say("demo: the generated images are in place");
        return Ok(());
    }
    say(format!(
        "demo: generating {} images",
        CLASSES.len() * PER_CLASS
    ));
    let making = files::sibling(&target, "partial");
    files::remove_folder(&making)?;
    for (class, strengths) in CLASSES {
        let folder = making.join(class);
        files::create_folder(&folder)?;
        for index in 0..PER_CLASS {
            let pixels = draw(&format!("{class}-{index}"), strengths);
            let size = u32::try_from(SIDE)?;
            write_png(
                &folder.join(format!("{index:02}.png")),
                [size, size],
                png::ColorType::Rgb,
                &pixels,
            )?;
        }
    }
    files::swap_folder(&making, &target)
}

/// `[SIDE, SIDE, 3]` bytes. The blocks follow from the name, so that no two images are alike and every run draws the same.
fn draw(name: &str, strengths: [u32; 3]) -> Vec<u8> {
    // 64 hex digits for 8 x 8 blocks: 16 levels each.
    let levels: Vec<u32> = digest::of_bytes(name.as_bytes())
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    let blocks = SIDE / BLOCK;
    let pixel = |place: usize| levels[place / SIDE / BLOCK * blocks + place % SIDE / BLOCK];
    let colours = (0..SIDE * SIDE)
        .flat_map(|place| strengths.map(|strength| pixel(place) * strength * 255 / (15 * 4)));
    colours
        .filter_map(|value| u8::try_from(value).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_whole_different_and_of_their_colour() {
        let [blue, red] = CLASSES.map(|(name, strengths)| draw(name, strengths));
        assert_eq!(blue.len(), SIDE * SIDE * 3);
        assert_ne!(draw("red-1", [1, 1, 1]), draw("red-2", [1, 1, 1]));
        let sum = |pixels: &[u8], channel: usize| {
            pixels
                .chunks(3)
                .map(|pixel| u32::from(pixel[channel]))
                .sum::<u32>()
        };
        assert!(sum(&blue, 2) > 2 * sum(&blue, 0) && sum(&red, 0) > 2 * sum(&red, 2));
    }

    #[test]
    fn the_images_are_made_once_and_what_a_killed_run_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("images.partial/green")).unwrap();
        provide(folder.path()).unwrap();
        let file = folder.path().join("images/red/00.png");
        assert!(!folder.path().join("images/green").exists());
        let before = std::fs::metadata(&file).unwrap().modified().unwrap();
        provide(folder.path()).unwrap();
        assert_eq!(
            std::fs::metadata(&file).unwrap().modified().unwrap(),
            before
        );
    }
}
