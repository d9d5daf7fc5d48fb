//! From a list of images to splits.

use super::{
    Error, Result, Split, SplitManifest, SplitOptions, SplitSample, Warning,
    assign::{Unit, assign},
    conflicts::{self, LeftOut},
    content::{self, Contents, Image},
    manifest::counts,
    near::{Clusters, cluster},
    order::{Use, seeded_hash},
    units::Sets,
};
use std::collections::BTreeSet;

use crate::{
    artifact::{Digest, Document},
    data::{Dataset, GivenSplit, Listing, NearOptions, Sample},
    progress::Progress,
};

/// The parts of a given `val`.
const VAL_SHARES: [(Split, f64); 3] = [
    (Split::ValSelect, 0.33),
    (Split::ValCalib, 0.33),
    (Split::ValTest, 0.34),
];

/// A row that takes part.
pub(super) struct Row<'a> {
    pub(super) sample: &'a Sample,
    pub(super) digest: Option<Digest>,
    /// The digest of the representative of its near-duplicates.
    pub(super) near: Option<Digest>,
}

/// Divides the images of `dataset`.
///
/// Units (images of one group, of one content, near-duplicates) stay together. A split that a CSV gives is kept, and its
/// `val` divided .33/.33/.34 into `val_select`, `val_calib` and `val_test`; without one, units go by [`SplitOptions::ratios`].
/// Within a class, units are divided in the order of a seeded hash of their first path: neither the order of the list,
/// nor the number of threads, nor the size of a unit has any influence. The class of a unit with several labels is that of
/// one of its rows, drawn by seeded hash.
///
/// # Errors
/// An [`Error`] for images that can't be used, contradictions, clusters that are too large and splits that would be
/// empty: see [`DataOptions`](crate::data::DataOptions) for what may be accepted instead.
pub fn make_splits(
    dataset: &Dataset,
    options: &SplitOptions,
    progress: &dyn Progress,
) -> Result<SplitManifest> {
    if u32::try_from(dataset.samples.len()).is_err() {
        return Err(Error::TooManyRows {
            rows: dataset.samples.len(),
        });
    }
    let Contents {
        samples,
        images,
        inputs_digest,
        bad,
    } = content::read(dataset, options, progress)?;
    let mut warnings = Vec::new();
    warnings.extend(bad.non_empty().map(|images| Warning::BadImages { images }));
    if images.is_none() {
        warnings.push(Warning::ContentUnknown);
    }
    let near = near_duplicates(
        &samples,
        images.as_deref(),
        &dataset.options.near,
        &mut warnings,
        progress,
    )?;
    let mut rows = rows(samples, images.as_deref(), near);
    drop(images);

    let policy = dataset.options.on_conflict;
    let LeftOut {
        rows: left_out,
        sets,
    } = conflicts::settle_labels(&mut rows, &dataset.labels, policy)?;
    warnings.extend(sets.non_empty().map(|sets| Warning::LabelConflicts {
        rows: left_out,
        sets,
    }));
    warnings.extend(
        conflicts::near_labels(&rows, &dataset.labels)
            .non_empty()
            .map(|sets| Warning::NearLabels { sets }),
    );
    let mut units = units(&rows);
    let LeftOut {
        rows: left_out,
        sets,
    } = conflicts::settle_splits(&rows, &mut units, policy)?;
    warnings.extend(sets.non_empty().map(|sets| Warning::SplitConflicts {
        rows: left_out,
        sets,
    }));

    let splits = divide(&rows, &units, &dataset.labels, options)?;
    let samples = manifest_samples(&rows, &units, &splits);
    let given = rows.iter().any(|row| row.sample.given.is_some());
    let manifest = SplitManifest {
        schema_version: SplitManifest::SCHEMA_VERSION,
        inputs_digest,
        seed: options.seed,
        ratios: (!given).then_some(options.ratios),
        content: dataset.options.content,
        labels: dataset.labels.clone(),
        counts: counts(&samples, dataset.labels.len()),
        warnings,
        samples,
    };
    checked(manifest)
}

/// The digest of everything that [`make_splits`] depends on, as [`SplitManifest::inputs_digest`] records it. Files are
/// read but not decoded: if it is unchanged, so are the splits, and they need not be made again.
pub fn inputs_digest(dataset: &Dataset, options: &SplitOptions, progress: &dyn Progress) -> Digest {
    content::inputs_digest(dataset, options, progress)
}

/// The digest of the representative of each image.
fn near_duplicates(
    samples: &[&Sample],
    images: Option<&[Image]>,
    options: &NearOptions,
    warnings: &mut Vec<Warning>,
    progress: &dyn Progress,
) -> Result<Option<Vec<Digest>>> {
    let Some(images) = images.filter(|_| options.enabled) else {
        return Ok(None);
    };
    // Each content once, in the order of the digests, which nobody can choose.
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.sort_unstable_by_key(|row| (images[*row].digest, *row));
    let (distinct, copies): (Vec<usize>, Vec<u64>) = order
        .chunk_by(|a, b| images[*a].digest == images[*b].digest)
        .map(|copies| (copies[0], copies.len() as u64))
        .unzip();
    let signatures: Vec<_> = distinct
        .iter()
        .filter_map(|row| images[*row].signature.as_ref())
        .collect();
    progress.start("comparing images", signatures.len() as u64);
    let Clusters {
        representative,
        crowded,
        ..
    } = cluster(&signatures, options.correlation, progress);
    progress.finish();
    if crowded > 0 {
        warnings.push(Warning::CrowdedHash { images: crowded });
    }
    let large = large_cluster(&representative, &copies, options, |place| {
        samples[distinct[place]].id.clone()
    })?;
    warnings.extend(large);
    let mut near = vec![Digest([0; 32]); images.len()];
    let mut place = 0;
    for (i, row) in order.iter().enumerate() {
        if i > 0 && images[*row].digest != images[order[i - 1]].digest {
            place += 1;
        }
        near[*row] = images[distinct[representative[place] as usize]].digest;
    }
    Ok(Some(near))
}

/// Three images that look alike are no sign of a search gone wrong, in however small a data set.
const LARGE: u64 = 4;

/// The verdict on the largest cluster, copies counted: none, a warning, or a refusal.
fn large_cluster(
    representative: &[u32],
    copies: &[u64],
    options: &NearOptions,
    id: impl Fn(usize) -> String,
) -> Result<Option<Warning>> {
    let mut sizes = vec![0u64; representative.len()];
    representative
        .iter()
        .zip(copies)
        .for_each(|(place, copies)| sizes[*place as usize] += copies);
    let Some((place, images)) = sizes
        .into_iter()
        .enumerate()
        .max_by_key(|(place, n)| (*n, usize::MAX - place))
    else {
        return Ok(None);
    };
    let share = images as f64 / copies.iter().sum::<u64>() as f64;
    let example = id(place);
    if images < LARGE || share <= options.warn_share.min(options.refuse_share) {
        return Ok(None);
    }
    if share > options.refuse_share && !options.allow_large_clusters {
        return Err(Error::LargeCluster {
            images,
            share,
            limit: options.refuse_share,
            example,
        });
    }
    Ok(Some(Warning::LargeCluster {
        images,
        share,
        example,
    }))
}

fn rows<'a>(
    samples: Vec<&'a Sample>,
    images: Option<&[Image]>,
    near: Option<Vec<Digest>>,
) -> Vec<Row<'a>> {
    let digest = |row: usize| images.map(|images| images[row].digest);
    let near = |row: usize| near.as_ref().map(|near| near[row]);
    let rows = samples.into_iter().enumerate();
    rows.map(|(row, sample)| Row {
        sample,
        digest: digest(row),
        near: near(row),
    })
    .collect()
}

/// The rows of each unit, in the order of their first rows.
fn units(rows: &[Row<'_>]) -> Vec<Vec<u32>> {
    let mut sets = Sets::new(rows.len());
    sets.join_equal(rows.iter().map(|row| row.sample.group.as_deref()));
    sets.join_equal(rows.iter().map(|row| row.digest));
    sets.join_equal(rows.iter().map(|row| row.near));
    sets.into_groups()
}

/// The split of each unit.
fn divide(
    rows: &[Row<'_>],
    units: &[Vec<u32>],
    labels: &[String],
    options: &SplitOptions,
) -> Result<Vec<Split>> {
    let all: Vec<(Split, f64)> = Split::ALL
        .map(|split| (split, options.ratios.of(split)))
        .to_vec();
    let mut splits = vec![Split::Train; units.len()];
    let (mut free, mut val) = (Vec::new(), Vec::new());
    for (place, unit) in units.iter().enumerate() {
        match rows[unit[0] as usize].sample.given {
            None => free.push(place),
            Some(GivenSplit::Val) => val.push(place),
            Some(GivenSplit::Train) => {}
            Some(GivenSplit::ValSelect) => splits[place] = Split::ValSelect,
            Some(GivenSplit::ValCalib) => splits[place] = Split::ValCalib,
            Some(GivenSplit::ValTest) => splits[place] = Split::ValTest,
        }
    }
    for (pool, shares) in [(free, all.as_slice()), (val, &VAL_SHARES)] {
        if pool.is_empty() {
            continue;
        }
        let members: Vec<_> = pool
            .iter()
            .map(|place| unit(rows, &units[*place], options.seed))
            .collect();
        check_classes(rows, units, &pool, labels, shares)?;
        for (place, split) in pool
            .iter()
            .zip(assign(&members, labels, shares, options.seed))
        {
            splits[*place] = split;
        }
    }
    Ok(splits)
}

fn unit<'a>(rows: &[Row<'a>], unit: &[u32], seed: u64) -> Unit<'a> {
    let sample = |row: &u32| rows[*row as usize].sample;
    let stands = match unit {
        [only] => only,
        _ => unit
            .iter()
            .min_by_key(|row| (seeded_hash(seed, Use::Keep, &sample(row).id), **row))
            .expect("a unit has a row"),
    };
    Unit {
        name: &sample(&unit[0]).id,
        stratum: sample(stands).label,
    }
}

/// Every class has a unit for each of the splits that `pool` is divided into.
fn check_classes(
    rows: &[Row<'_>],
    units: &[Vec<u32>],
    pool: &[usize],
    labels: &[String],
    shares: &[(Split, f64)],
) -> Result<()> {
    let mut images = vec![0u64; labels.len()];
    for row in pool.iter().flat_map(|place| &units[*place]) {
        images[rows[*row as usize].sample.label] += 1;
    }
    // Units that hold the class, not only those that are counted under it: which class a mixed unit is counted under is
    // drawn by the seed.
    let mut found = vec![0usize; labels.len()];
    for place in pool {
        let held = units[*place]
            .iter()
            .map(|row| rows[*row as usize].sample.label);
        held.collect::<BTreeSet<_>>()
            .into_iter()
            .for_each(|label| found[label] += 1);
    }
    let short = (0..labels.len()).filter(|label| found[*label] < shares.len());
    let classes: Listing = short
        .map(|label| {
            format!(
                "`{}` has {} image(s) in {} unit(s)",
                labels[label], images[label], found[label]
            )
        })
        .collect();
    match classes.non_empty() {
        None => Ok(()),
        Some(classes) => Err(Error::SmallClasses {
            classes,
            splits: shares.iter().map(|(split, _)| *split).collect(),
        }),
    }
}

/// The rows with their units, which are counted in the order of their first paths, sorted by path.
fn manifest_samples(rows: &[Row<'_>], units: &[Vec<u32>], splits: &[Split]) -> Vec<SplitSample> {
    let mut samples: Vec<_> = units
        .iter()
        .zip(splits)
        .zip(0..)
        .flat_map(|((unit, split), number)| {
            unit.iter().map(move |row| {
                let Row { sample, digest, .. } = &rows[*row as usize];
                SplitSample {
                    path: sample.id.clone(),
                    label: sample.label,
                    group: sample.group.clone(),
                    unit: number,
                    split: *split,
                    digest: *digest,
                }
            })
        })
        .collect();
    samples.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    samples
}

/// What only a given split can get wrong.
fn checked(mut manifest: SplitManifest) -> Result<SplitManifest> {
    for split in Split::ALL {
        let counts = &manifest.counts[&split];
        if counts.iter().all(|n| *n == 0) {
            return Err(Error::EmptySplit { split });
        }
        let missing = manifest.labels.iter().zip(counts).filter(|(_, n)| **n == 0);
        let missing: Listing = missing.map(|(label, _)| label).collect();
        match missing.non_empty() {
            Some(labels) if split == Split::Train => {
                return Err(Error::UntrainedClasses { labels });
            }
            Some(labels) => manifest
                .warnings
                .push(Warning::MissingClasses { split, labels }),
            None => {}
        }
    }
    debug_assert_eq!(manifest.validate(), Ok(()));
    Ok(manifest)
}
