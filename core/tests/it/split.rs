//! Dividing a data set.

use crate::images::{Folder, picture};
use proptest::prelude::*;
use stage1_core::{
    artifact::{Document, json},
    data::{self, Content, DataOptions, Dataset, OnBadImage, OnConflict, Sample},
    progress::Silent,
    split::{self, Error, Ratios, Split, SplitManifest, SplitOptions, Warning},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

fn split_folder(folder: &Folder, options: &DataOptions) -> Result<SplitManifest, Error> {
    let dataset = data::open(&folder.path(""), options)?;
    split::make_splits(&dataset, &SplitOptions::default(), &Silent)
}

fn split_list(folder: &Folder, options: &DataOptions) -> Result<SplitManifest, Error> {
    let dataset = data::open(&folder.path("list.csv"), options)?;
    split::make_splits(&dataset, &SplitOptions::default(), &Silent)
}

fn dropping() -> DataOptions {
    DataOptions {
        on_conflict: OnConflict::Drop,
        ..DataOptions::default()
    }
}

/// `n` pictures of each of two classes.
fn two_classes(n: u64) -> Folder {
    let folder = Folder::new();
    for i in 0..n {
        folder.draw(&format!("cat/{i:03}.png"), &picture(i, i, 2));
        folder.draw(&format!("dog/{i:03}.png"), &picture(1000 + i, i, 2));
    }
    folder
}

fn row<'a>(manifest: &'a SplitManifest, path: &str) -> &'a split::SplitSample {
    manifest.samples.iter().find(|s| s.path == path).unwrap()
}

#[test]
fn a_folder_is_divided_and_the_file_repeats() {
    let folder = two_classes(30);
    let manifest = split_folder(&folder, &DataOptions::default()).unwrap();
    assert_eq!(manifest.warnings, []);
    let counts: Vec<_> = manifest.counts.values().cloned().collect();
    assert_eq!(counts, [[15, 15], [3, 3], [3, 3], [9, 9]]);
    assert_eq!(manifest.units_in(Split::ValTest), 18);
    assert!(manifest.samples.iter().all(|s| s.digest.is_some()));

    let out = Folder::new();
    let path = out.path("splits.json");
    let digest = json::save(&manifest, &path).unwrap();
    let (loaded, again) = json::load::<SplitManifest>(&path).unwrap();
    assert_eq!((&loaded, again), (&manifest, digest));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        text.lines()
            .filter(|line| line.contains("\"path\""))
            .count(),
        60,
        "one row to the line"
    );
    assert!(
        !text.contains(folder.path("").to_str().unwrap()),
        "no absolute paths"
    );

    let dataset = data::open(&folder.path(""), &DataOptions::default()).unwrap();
    let digest = |options: &SplitOptions| split::inputs_digest(&dataset, options, &Silent);
    assert_eq!(digest(&SplitOptions::default()), manifest.inputs_digest);
    assert_ne!(
        digest(&SplitOptions {
            seed: 7,
            ..SplitOptions::default()
        }),
        manifest.inputs_digest
    );
    folder.draw("cat/000.png", &picture(5000, 0, 2));
    assert_ne!(digest(&SplitOptions::default()), manifest.inputs_digest);
}

#[test]
fn the_order_of_the_list_and_the_number_of_threads_change_nothing() {
    let folder = two_classes(20);
    // Near-duplicates and copies, so that there is something to disagree about.
    for i in 0..6 {
        folder.draw(&format!("cat/near{i}.png"), &picture(i, 100 + i, 4));
        fs::copy(
            folder.path(&format!("dog/{i:03}.png")),
            folder.path(&format!("dog/copy{i}.png")),
        )
        .unwrap();
    }
    let dataset = data::open(&folder.path(""), &DataOptions::default()).unwrap();
    let make = |threads, dataset: &Dataset| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let options = SplitOptions::default();
        pool.install(|| json::to_bytes(&split::make_splits(dataset, &options, &Silent).unwrap()))
    };
    let one = make(1, &dataset);
    assert_eq!(one, make(4, &dataset));

    // The same images in a CSV, in two orders.
    let lines: Vec<_> = dataset
        .samples
        .iter()
        .map(|s| format!("{},{}\n", s.id, dataset.labels[s.label]))
        .collect();
    let listed = |lines: Vec<String>| {
        folder.write("list.csv", format!("path,label\n{}", lines.concat()));
        let dataset = data::open(&folder.path("list.csv"), &DataOptions::default()).unwrap();
        make(2, &dataset)
    };
    assert_eq!(listed(lines.clone()), one);
    assert_eq!(listed(lines.into_iter().rev().collect()), one);
}

#[test]
fn copies_near_duplicates_and_groups_stay_together() {
    let folder = two_classes(20);
    fs::copy(folder.path("cat/003.png"), folder.path("cat/copy.png")).unwrap();
    folder.draw("dog/near.jpg", &picture(1005, 5, 2));
    let manifest = split_folder(&folder, &DataOptions::default()).unwrap();
    let unit = |path| row(&manifest, path).unit;
    assert_eq!(unit("cat/003.png"), unit("cat/copy.png"));
    assert_eq!(unit("dog/005.png"), unit("dog/near.jpg"));
    assert_eq!(
        manifest
            .samples
            .iter()
            .map(|s| s.unit)
            .collect::<BTreeSet<_>>()
            .len(),
        40
    );

    let mut options = DataOptions::default();
    options.near.enabled = false;
    let manifest = split_folder(&folder, &options).unwrap();
    assert_ne!(
        row(&manifest, "dog/005.png").unit,
        row(&manifest, "dog/near.jpg").unit
    );
    assert_eq!(
        row(&manifest, "cat/003.png").unit,
        row(&manifest, "cat/copy.png").unit
    );
}

#[test]
fn copies_with_different_labels_are_refused_or_all_left_out() {
    let folder = two_classes(10);
    fs::copy(folder.path("cat/003.png"), folder.path("dog/copy.png")).unwrap();
    let error = split_folder(&folder, &DataOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cat/003.png [cat] = dog/copy.png [dog]"),
        "{error}"
    );
    assert!(error.contains("on_conflict: drop"), "{error}");

    let manifest = split_folder(&folder, &dropping()).unwrap();
    assert_eq!(manifest.samples.len(), 19);
    assert!(
        matches!(
            &manifest.warnings[..],
            [Warning::LabelConflicts { rows: 2, .. }]
        ),
        "{:?}",
        manifest.warnings
    );
}

/// Ten pictures of each class in each split named, and a CSV of them with `extra` lines.
fn given(splits: &[&str], extra: &str) -> Folder {
    let folder = Folder::new();
    let mut lines = String::from("path,label,group,split\n");
    for (s, name) in splits.iter().enumerate() {
        for i in 0..20u64 {
            let file = format!("{name}{i}.png");
            folder.draw(&file, &picture(s as u64 * 100 + i, i, 2));
            lines += &format!(
                "{file},{},,{name}\n",
                if i % 2 == 0 { "cat" } else { "dog" }
            );
        }
    }
    folder.write("list.csv", lines + extra);
    folder
}

#[test]
fn a_given_val_is_divided_and_four_given_splits_are_kept() {
    let manifest = split_list(&given(&["train", "val"], ""), &DataOptions::default()).unwrap();
    assert_eq!(manifest.ratios, None);
    assert_eq!(manifest.rows_in(Split::Train), 20);
    assert!(
        manifest
            .of(Split::Train)
            .all(|s| s.path.starts_with("train"))
    );
    for split in [Split::ValSelect, Split::ValCalib, Split::ValTest] {
        assert!(
            (6..=8).contains(&manifest.rows_in(split)),
            "{split}: {}",
            manifest.rows_in(split)
        );
    }
    let names = ["train", "val_select", "val_calib", "val_test"];
    let manifest = split_list(&given(&names, ""), &DataOptions::default()).unwrap();
    assert!(
        manifest
            .samples
            .iter()
            .all(|s| s.path.starts_with(s.split.name()))
    );
}

#[test]
fn what_a_given_split_pulls_apart_is_refused_or_left_to_the_protected_split() {
    let cases = [
        ("same content", "copy.png,cat,,val\n"),
        ("near-duplicates", "near.png,cat,,val\n"),
        ("same group", "other.png,cat,g,val\nalso.png,cat,g,train\n"),
    ];
    for (why, extra) in cases {
        let folder = given(&["train", "val"], extra);
        fs::copy(folder.path("train4.png"), folder.path("copy.png")).unwrap();
        folder.draw("near.png", &picture(4, 77, 3));
        folder.draw("other.png", &picture(900, 0, 2));
        folder.draw("also.png", &picture(901, 0, 2));
        let error = split_list(&folder, &DataOptions::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("[val]") && error.contains("[train]") && error.contains(why),
            "{why}: {error}"
        );

        let manifest = split_list(&folder, &dropping()).unwrap();
        let kept = extra.split(',').next().unwrap();
        assert_ne!(row(&manifest, kept).split, Split::Train);
        assert!(
            manifest.samples.iter().all(|s| ![
                "also.png",
                if why == "same group" {
                    ""
                } else {
                    "train4.png"
                }
            ]
            .contains(&s.path.as_str())),
            "{why}"
        );
        assert!(
            matches!(
                &manifest.warnings[..],
                [Warning::SplitConflicts { rows: 1, .. }]
            ),
            "{:?}",
            manifest.warnings
        );
    }
}

#[test]
fn empty_splits_and_missing_classes_are_said() {
    let error = split_list(&given(&["train"], ""), &DataOptions::default()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::EmptySplit {
                split: Split::ValSelect
            }
        ),
        "{error}"
    );
    let names = ["train", "val_select", "val_calib"];
    let error = split_list(&given(&names, ""), &DataOptions::default()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::EmptySplit {
                split: Split::ValTest
            }
        ),
        "{error}"
    );

    let folder = given(
        &["val_select", "val_calib", "val_test"],
        "lone.png,cat,,train\n",
    );
    folder.draw("lone.png", &picture(999, 0, 2));
    let error = split_list(&folder, &DataOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no image in train has the label(s) dog"),
        "{error}"
    );

    let folder = given(
        &["train", "val_select", "val_calib"],
        "lone.png,cat,,val_test\n",
    );
    folder.draw("lone.png", &picture(999, 0, 2));
    let manifest = split_list(&folder, &DataOptions::default()).unwrap();
    let [warning] = &manifest.warnings[..] else {
        panic!("{:?}", manifest.warnings)
    };
    assert!(
        warning
            .to_string()
            .contains("no image in val_test has the label(s) dog"),
        "{warning}"
    );
}

#[test]
fn a_class_with_two_images_is_refused() {
    let folder = two_classes(5);
    folder.draw("rare/a.png", &picture(800, 0, 2));
    folder.draw("rare/b.png", &picture(801, 0, 2));
    let error = split_folder(&folder, &DataOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`rare` has 2 image(s) in 2 unit(s)") && error.contains("at least 4 units"),
        "{error}"
    );
    for i in 0..4 {
        folder.draw(&format!("rare/{i}.png"), &picture(810 + i, 0, 2));
    }
    let manifest = split_folder(&folder, &DataOptions::default()).unwrap();
    assert!(
        manifest
            .counts
            .values()
            .all(|classes| classes.iter().all(|n| *n > 0))
    );
}

/// Which class a mixed group is drawn for depends on the seed; that it holds the class doesn't.
#[test]
fn a_class_that_is_rare_in_every_group_is_divided_with_any_seed() {
    let folder = Folder::new();
    let mut lines = String::from("path,label,group\n");
    for group in 0..40 {
        for i in 0..12 {
            let label = if i == 0 { "pos" } else { "neg" };
            lines += &format!("{group}-{i}.png,{label},g{group}\n");
        }
    }
    folder.write("list.csv", lines);
    let options = DataOptions {
        content: Content::None,
        ..DataOptions::default()
    };
    let dataset = data::open(&folder.path("list.csv"), &options).unwrap();
    for seed in 1..=8 {
        let options = SplitOptions {
            seed,
            ..SplitOptions::default()
        };
        let manifest = split::make_splits(&dataset, &options, &Silent).unwrap();
        assert!(manifest.counts.values().all(|of| of[1] > 0), "seed {seed}");
    }
}

#[test]
fn bad_images_are_refused_or_skipped_with_their_paths() {
    let folder = two_classes(10);
    let whole = fs::read(folder.path("cat/003.png")).unwrap();
    folder.write("cat/truncated.png", &whole[..whole.len() / 2]);
    folder.write("dog/text.jpg", "no image at all");
    folder.write("dog/empty.png", "");
    let error = split_folder(&folder, &DataOptions::default())
        .unwrap_err()
        .to_string();
    for part in [
        "3 image(s)",
        "cat/truncated.png: ",
        "dog/text.jpg: ",
        "dog/empty.png: ",
        "on_bad_image: skip",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let options = DataOptions {
        on_bad_image: OnBadImage::Skip,
        ..DataOptions::default()
    };
    let manifest = split_folder(&folder, &options).unwrap();
    assert_eq!(manifest.samples.len(), 20);
    let [Warning::BadImages { images }] = &manifest.warnings[..] else {
        panic!("{:?}", manifest.warnings)
    };
    assert_eq!(images.count, 3);
    let text = String::from_utf8(json::to_bytes(&manifest)).unwrap();
    assert!(
        !text.contains(folder.path("").to_str().unwrap()),
        "no absolute paths"
    );

    let options = DataOptions {
        max_pixels: 1000,
        ..DataOptions::default()
    };
    let error = split_folder(&two_classes(4), &options)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("32x32") && error.contains("max_pixels"),
        "{error}"
    );
}

#[test]
fn large_clusters_are_warned_of_and_refused() {
    let folder = two_classes(40);
    for copy in 0..5 {
        folder.draw(&format!("cat/near{copy}.png"), &picture(0, 500 + copy, 4));
    }
    let manifest = split_folder(&folder, &DataOptions::default()).unwrap();
    let [Warning::LargeCluster { images: 6, .. }] = &manifest.warnings[..] else {
        panic!("{:?}", manifest.warnings)
    };
    for copy in 5..12 {
        folder.draw(&format!("cat/near{copy}.png"), &picture(0, 500 + copy, 4));
    }
    let error = split_folder(&folder, &DataOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("13 images (14.1 %") && error.contains("near.allow_large_clusters"),
        "{error}"
    );
    let mut options = DataOptions::default();
    options.near.allow_large_clusters = true;
    let manifest = split_folder(&folder, &options).unwrap();
    assert!(matches!(
        &manifest.warnings[..],
        [Warning::LargeCluster { images: 13, .. }]
    ));
}

#[test]
fn copies_count_towards_a_large_cluster() {
    let folder = two_classes(40);
    for copy in 0..12 {
        fs::copy(
            folder.path("cat/000.png"),
            folder.path(&format!("cat/copy{copy}.png")),
        )
        .unwrap();
    }
    let error = split_folder(&folder, &DataOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("13 images (14.1 %"), "{error}");
}

#[test]
fn near_duplicates_with_different_labels_are_told_and_stay() {
    let folder = two_classes(40);
    folder.draw("dog/cat.png", &picture(0, 500, 4));
    let manifest = split_folder(&folder, &DataOptions::default()).unwrap();
    let [warning @ Warning::NearLabels { sets }] = &manifest.warnings[..] else {
        panic!("{:?}", manifest.warnings)
    };
    assert_eq!(sets.count, 1);
    let text = warning.to_string();
    assert!(
        text.contains("cat/000.png [cat] = dog/cat.png [dog]"),
        "{text}"
    );
    let (a, b) = (row(&manifest, "cat/000.png"), row(&manifest, "dog/cat.png"));
    assert_eq!((a.unit, a.split), (b.unit, b.split));
}

#[test]
fn without_content_two_hundred_thousand_rows_are_divided() {
    let folder = Folder::new();
    let rows: String = (0..200_000)
        .map(|i| {
            format!(
                "images/{i}.jpg,{},g{}\n",
                ["cat", "dog", "owl"][i % 3],
                i / 2
            )
        })
        .collect();
    folder.write("list.csv", format!("path,label,group\n{rows}"));
    let options = DataOptions {
        content: Content::None,
        ..DataOptions::default()
    };
    let manifest = split_list(&folder, &options).unwrap();
    assert_eq!(manifest.validate(), Ok(()));
    assert_eq!(manifest.warnings, [Warning::ContentUnknown]);
    let units: u64 = Split::ALL
        .iter()
        .map(|split| manifest.units_in(*split))
        .sum();
    assert_eq!(units, 100_000);
    // Three strata, each rounded: at most one unit off in each.
    assert!(manifest.units_in(Split::ValTest).abs_diff(30_000) <= 3);
    let (loaded, _) = {
        let path = folder.path("splits.json");
        json::save(&manifest, &path).unwrap();
        json::load::<SplitManifest>(&path).unwrap()
    };
    assert_eq!(loaded, manifest);
}

#[test]
fn ratios_are_positive_and_add_up() {
    assert!(Ratios::new(0.4, 0.1, 0.2, 0.3).is_ok());
    for (ratios, want) in [
        ([0.5, 0.1, 0.1, 0.1], "add up to 0.8"),
        ([0.7, 0.0, 0.1, 0.2], "`val_select` is 0"),
        ([1.2, -0.4, 0.1, 0.1], "`train` is 1.2"),
        ([f64::NAN, 0.1, 0.1, 0.1], "`train` is NaN"),
    ] {
        let error = Ratios::new(ratios[0], ratios[1], ratios[2], ratios[3])
            .unwrap_err()
            .to_string();
        assert!(error.contains(want), "{error}");
    }
    let parsed = serde_json::from_str::<SplitOptions>(
        r#"{"ratios": {"train": 0.5, "val_select": 0.5, "val_calib": 0.5, "val_test": 0.5}}"#,
    );
    assert!(parsed.unwrap_err().to_string().contains("add up to 2"));
}

/// A data set of rows without content: (label, group).
fn dataset(rows: &[(usize, Option<u8>)]) -> Dataset {
    let samples = rows.iter().enumerate().map(|(i, (label, group))| Sample {
        id: format!("{i:04}.png"),
        label: *label,
        group: group.map(|group| group.to_string()),
        given: None,
    });
    Dataset {
        root: ".".into(),
        labels: vec!["a".into(), "b".into(), "c".into()],
        samples: samples.collect(),
        skipped: data::Listing::default(),
        options: DataOptions {
            content: Content::None,
            ..DataOptions::default()
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the groups, a unit is in one split, a group in one unit, every class everywhere, and the manifest valid.
    #[test]
    fn no_unit_is_in_two_splits(
        rows in prop::collection::vec((0usize..3, prop::option::weighted(0.3, 0u8..12)), 60..200),
        seed in any::<u64>(),
    ) {
        let options = SplitOptions { seed, ..SplitOptions::default() };
        let manifest = match split::make_splits(&dataset(&rows), &options, &Silent) {
            Ok(manifest) => manifest,
            Err(Error::SmallClasses { .. }) => return Ok(()),
            Err(other) => panic!("{other}"),
        };
        prop_assert_eq!(manifest.validate(), Ok(()));
        prop_assert_eq!(manifest.samples.len(), rows.len());
        let mut splits: BTreeMap<u64, Split> = BTreeMap::new();
        let mut units: BTreeMap<&str, u64> = BTreeMap::new();
        for sample in &manifest.samples {
            prop_assert_eq!(*splits.entry(sample.unit).or_insert(sample.split), sample.split);
            if let Some(group) = &sample.group {
                prop_assert_eq!(*units.entry(group).or_insert(sample.unit), sample.unit);
            }
        }
    }

    /// The size of groups doesn't change where rows without a group go: no split is filled up with small units.
    #[test]
    fn the_size_of_a_unit_steers_nothing(copies in 1usize..30, seed in any::<u64>()) {
        let singles = |i: usize| (i % 3, None);
        let alone: Vec<_> = (0..120).map(singles).chain((0..3).map(|i| (i, Some(i as u8)))).collect();
        let mut grown = alone.clone();
        for _ in 0..copies {
            grown.extend((0..3).map(|i| (i, Some(i as u8))));
        }
        let options = SplitOptions { seed, ..SplitOptions::default() };
        let of = |rows: &[_]| split::make_splits(&dataset(rows), &options, &Silent).unwrap().samples;
        let (alone, grown) = (of(&alone), of(&grown));
        prop_assert!(alone.iter().zip(&grown).all(|(a, b)| a.path == b.path && a.split == b.split));
    }

    /// A manifest that was tampered with is refused.
    #[test]
    fn a_row_moved_to_another_split_is_noticed(row in 0usize..300, seed in any::<u64>()) {
        let rows: Vec<_> = (0..300).map(|i| (i % 3, Some((i / 3) as u8))).collect();
        let options = SplitOptions { seed, ..SplitOptions::default() };
        let mut manifest = split::make_splits(&dataset(&rows), &options, &Silent).unwrap();
        let split = &mut manifest.samples[row].split;
        let (from, to) = (*split, if *split == Split::Train { Split::ValTest } else { Split::Train });
        *split = to;
        let label = manifest.samples[row].label;
        manifest.counts.get_mut(&from).unwrap()[label] -= 1;
        manifest.counts.get_mut(&to).unwrap()[label] += 1;
        let reason = manifest.validate().unwrap_err();
        prop_assert!(reason.contains("is in two splits"), "{}", reason);
    }
}

#[test]
fn invalid_manifests_are_refused() {
    let rows: Vec<_> = (0..60).map(|i| (i % 3, None)).collect();
    let good = split::make_splits(&dataset(&rows), &SplitOptions::default(), &Silent).unwrap();
    type Edit = (&'static str, fn(&mut SplitManifest));
    let cases: [Edit; 7] = [
        ("there once", |m| {
            m.samples[1].path = m.samples[0].path.clone()
        }),
        ("isn't relative", |m| m.samples[0].path = "../x.png".into()),
        ("isn't relative", |m| m.samples[0].path = "/x.png".into()),
        ("there are 3 labels", |m| m.samples[5].label = 3),
        ("`counts` aren't", |m| {
            m.counts.get_mut(&Split::Train).unwrap()[0] += 1
        }),
        ("has a digest", |m| {
            m.samples[0].digest = Some(m.inputs_digest)
        }),
        ("a label is there twice", |m| {
            m.labels[1] = m.labels[0].clone()
        }),
    ];
    for (want, spoil) in cases {
        let mut bad = good.clone();
        spoil(&mut bad);
        let reason = bad.validate().unwrap_err();
        assert!(reason.contains(want), "{want}: {reason}");
    }
}
