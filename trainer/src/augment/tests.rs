use super::*;
use crate::random::Draw;
use stage1_core::config::{AugmentPolicy, Blur, ColourJitter, Solarise};

fn picture() -> RgbImage {
    let mut image = RgbImage::new(40, 30);
    for (x, y, pixel) in image.enumerate_pixels_mut() {
        pixel.0 = [(6 * x) as u8, (8 * y) as u8, ((x * y) % 256) as u8];
    }
    image
}

fn run(config: &AugmentConfig, place: usize) -> Vec<f32> {
    let mut augmenter = Augmenter::new(config, &PreprocessSpec::dinov3(16, 24)).unwrap();
    let mut numbers = Draw::Picture { epoch: 1, place }.numbers(9);
    augmenter.run(&picture(), &mut numbers).unwrap()
}

#[test]
fn without_anything_to_vary_it_is_the_preprocessing() {
    let mut plain = Preprocessor::new(PreprocessSpec::dinov3(16, 24)).unwrap();
    assert_eq!(
        run(&AugmentConfig::default(), 3),
        plain.run(&picture()).unwrap()
    );
}

#[test]
fn every_variation_varies_with_the_place_and_repeats_with_it() {
    let one = |change: fn(&mut AugmentConfig)| {
        let mut config = AugmentConfig::default();
        change(&mut config);
        config
    };
    let cases = [
        ("crop", one(|c| c.crop = Some(RandomCrop::default()))),
        ("flip", one(|c| c.flip = 0.5)),
        (
            "colour",
            one(|c| {
                c.colour = ColourJitter {
                    probability: 1.0,
                    ..ColourJitter::default()
                }
            }),
        ),
        ("grey", one(|c| c.grey = 0.5)),
        (
            "blur",
            one(|c| {
                c.blur = Blur {
                    probability: 1.0,
                    ..Blur::default()
                }
            }),
        ),
        (
            "solarise",
            one(|c| {
                c.solarise = Solarise {
                    probability: 0.5,
                    ..Solarise::default()
                }
            }),
        ),
        (
            "policy",
            one(|c| {
                c.policy = AugmentPolicy {
                    operations: 2,
                    magnitude: 9.0,
                }
            }),
        ),
    ];
    for (name, config) in cases {
        let runs: Vec<_> = (0..12).map(|place| run(&config, place)).collect();
        assert!(
            runs.iter().any(|other| *other != runs[0]),
            "{name} varies nothing"
        );
        assert!(
            runs.iter().all(|run| run.iter().all(|x| x.is_finite())),
            "{name}"
        );
        assert_eq!(run(&config, 5), runs[5], "{name}");
    }
}

#[test]
fn a_mirrored_picture_is_the_picture_mirrored() {
    let flip = AugmentConfig {
        flip: 1.0,
        ..AugmentConfig::default()
    };
    let mut twice = run(&flip, 0);
    twice.chunks_exact_mut(24).for_each(<[f32]>::reverse);
    assert_eq!(twice, run(&AugmentConfig::default(), 0));
}

#[test]
fn parts_have_the_area_and_ratio_that_were_asked_for() {
    let crop = RandomCrop {
        area: [0.2, 0.5],
        ratio: [0.5, 2.0],
    };
    let image = RgbImage::new(200, 160);
    for place in 0..200 {
        let mut numbers = Draw::Picture { epoch: 1, place }.numbers(1);
        let part = random_part(&image, &crop, &mut numbers);
        let (w, h) = (f64::from(part.width()), f64::from(part.height()));
        let area = w * h / (200.0 * 160.0);
        assert!((0.19..0.51).contains(&area), "{w} x {h}");
        assert!((0.48..2.1).contains(&(w / h)), "{w} x {h}");
    }
    // Nothing of this ratio has this area: the middle is cut.
    let long = RgbImage::new(400, 4);
    let mut numbers = Draw::Initialise.numbers(1);
    let whole = RandomCrop {
        area: [0.9, 1.0],
        ..RandomCrop::default()
    };
    assert_eq!(
        random_part(&long, &whole, &mut numbers).dimensions(),
        (5, 4)
    );
}

#[test]
fn operations_on_colours_are_their_definitions() {
    let one = |pixel: [u8; 3], change: &dyn Fn(&mut RgbImage)| {
        let mut image = RgbImage::new(1, 1);
        image.put_pixel(
            0,
            0,
            stage1_core::preprocess::RgbImage::from_raw(1, 1, pixel.to_vec()).unwrap()[(0, 0)],
        );
        change(&mut image);
        image[(0, 0)].0
    };
    assert_eq!(
        one([200, 100, 50], &|i| colour::turn_hue(i, 1.0 / 3.0)),
        [50, 200, 100]
    );
    assert_eq!(
        one([200, 100, 50], &|i| colour::turn_hue(i, 0.0)),
        [200, 100, 50]
    );
    assert_eq!(one([200, 100, 50], &|i| colour::saturate(i, 0.0)), [124; 3]);
    assert_eq!(
        one([200, 100, 50], &|i| colour::brighten(i, 1.5)),
        [255, 150, 75]
    );
    assert_eq!(
        one([200, 100, 50], &|i| colour::solarise(i, 128)),
        [55, 100, 50]
    );
    assert_eq!(
        one([200, 100, 55], &|i| colour::posterise(i, 4)),
        [192, 96, 48]
    );
    assert_eq!(
        one([200, 100, 50], &|i| shape::blur(i, 2.0)),
        [200, 100, 50]
    );
}
