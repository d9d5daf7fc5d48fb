use super::Signature;
use crate::{artifact::Digest, progress::Progress};
use std::collections::{BTreeMap, BTreeSet};

/// A pair is looked at if at most this many of its first 64 signs differ: of pairs that correlate at .98 (each sign differs
/// with probability .064), 95 in 100; at .99, 99.
const RADIUS: u32 = 7;
/// It is compared if at most this many of its 256 signs differ: 999 in 1,000 of those at .98, but few of those at .9, of
/// which a class of one outline may have very many.
const WIDE_RADIUS: u32 = 28;
/// The first 64 signs are cut into this many bands. Within [`RADIUS`], at least one band differs in at most one place.
const BANDS: usize = 4;
const BAND_BITS: usize = 64 / BANDS;
/// No bucket grows beyond this, and no image is compared with more representatives than [`COMPARISONS`]: the time stays
/// proportional to the number of images even if all look alike to the hash.
const BUCKET: usize = 4096;
const COMPARISONS: usize = 512;

/// Bounded clusters: every member is near its representative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clusters {
    /// The representative of each image, as a place in the list given; its own place if it has or is none.
    pub(crate) representative: Vec<u32>,
    /// Images that weren't compared with everything that the hash proposed.
    pub(crate) crowded: u64,
    /// Comparisons of pixels made.
    pub(crate) comparisons: u64,
}

/// Puts each image, in the order given, to the representative with which it correlates most, if that is at least
/// `correlation`; else it becomes a representative.
///
/// The order must be one that nobody can choose, such as that of the content digests.
pub(crate) fn cluster(
    signatures: &[&Signature],
    correlation: f64,
    progress: &dyn Progress,
) -> Clusters {
    let mut search = Search::new(signatures, correlation);
    let mut flat: BTreeMap<Digest, u32> = BTreeMap::new();
    let places = 0..signatures.len() as u32;
    let representative = places.map(|place| {
        let found = match signatures[place as usize].flat {
            Some(colours) => *flat.entry(colours).or_insert(place),
            None => search.place(place),
        };
        progress.advance(1);
        found
    });
    Clusters {
        representative: representative.collect(),
        crowded: search.crowded,
        comparisons: search.comparisons,
    }
}

/// Which images are near others.
pub(crate) struct Near {
    /// For each of the images asked about.
    pub(crate) found: Vec<bool>,
    /// Images that weren't compared with everything that the hash proposed.
    pub(crate) crowded: usize,
}

/// Which of `images` are near one of `others`, whatever they are to each other.
pub(crate) fn near_to(others: &[&Signature], images: &[&Signature], correlation: f64) -> Near {
    let all = [others, images].concat();
    let mut search = Search::new(&all, correlation);
    let mut flat = BTreeSet::new();
    for (other, place) in others.iter().zip(0..) {
        match other.flat {
            Some(colours) => _ = flat.insert(colours),
            None => search.crowded += u64::from(search.add(place)),
        }
    }
    let first = others.len() as u32;
    let found = images.iter().zip(first..).map(|(image, place)| {
        if let Some(colours) = image.flat {
            return flat.contains(&colours);
        }
        search.propose(place);
        search.crowded += u64::from(search.candidates.len() > COMPARISONS);
        search.confirm(place).is_some()
    });
    Near {
        found: found.collect(),
        crowded: search.crowded as usize,
    }
}

struct Search<'a> {
    signatures: &'a [&'a Signature],
    correlation: f64,
    /// Representatives by the value of each band, with their first 64 signs.
    buckets: Vec<Vec<(u64, u32)>>,
    /// The last image to which a representative was proposed: it may lie in several buckets.
    seen: Vec<u32>,
    candidates: Vec<(u32, u32)>,
    crowded: u64,
    comparisons: u64,
}

impl<'a> Search<'a> {
    fn new(signatures: &'a [&'a Signature], correlation: f64) -> Self {
        Self {
            signatures,
            correlation,
            buckets: vec![Vec::new(); BANDS << BAND_BITS],
            seen: vec![u32::MAX; signatures.len()],
            candidates: Vec::new(),
            crowded: 0,
            comparisons: 0,
        }
    }

    /// The representative of `place`: found, or itself.
    fn place(&mut self, place: u32) -> u32 {
        self.propose(place);
        let mut crowded = self.candidates.len() > COMPARISONS;
        let found = self.confirm(place);
        if found.is_none() {
            crowded |= self.add(place);
        }
        self.crowded += u64::from(crowded);
        found.unwrap_or(place)
    }

    /// Collects the representatives within both radii, with their distances.
    fn propose(&mut self, place: u32) {
        let signature = self.signatures[place as usize];
        self.candidates.clear();
        for band in 0..BANDS {
            let exact = bucket(signature.signs[0], band);
            let flips = (0..BAND_BITS).map(|bit| exact ^ (1 << bit));
            for bucket in std::iter::once(exact).chain(flips) {
                for &(signs, other) in &self.buckets[bucket] {
                    let within = (signs ^ signature.signs[0]).count_ones() <= RADIUS;
                    if !within || std::mem::replace(&mut self.seen[other as usize], place) == place
                    {
                        continue;
                    }
                    let distance = signature.distance(self.signatures[other as usize]);
                    if distance <= WIDE_RADIUS {
                        self.candidates.push((distance, other));
                    }
                }
            }
        }
    }

    /// The candidate that correlates most (of equals the first), if it is near.
    fn confirm(&mut self, place: u32) -> Option<u32> {
        self.candidates.sort_unstable();
        self.candidates.truncate(COMPARISONS);
        self.comparisons += self.candidates.len() as u64;
        let signature = self.signatures[place as usize];
        let mut best: Option<(f64, u32)> = None;
        for &(_, other) in &self.candidates {
            let correlation = signature.correlation(self.signatures[other as usize]);
            let better = best.is_none_or(|(most, first)| {
                correlation.total_cmp(&most).then(first.cmp(&other)).is_gt()
            });
            if correlation >= self.correlation && better {
                best = Some((correlation, other));
            }
        }
        best.map(|(_, other)| other)
    }

    /// Makes `place` a representative; whether a bucket was too full to take it.
    fn add(&mut self, place: u32) -> bool {
        let signs = self.signatures[place as usize].signs[0];
        let mut full = false;
        for band in 0..BANDS {
            let bucket = &mut self.buckets[bucket(signs, band)];
            if bucket.len() < BUCKET {
                bucket.push((signs, place));
            } else {
                full = true;
            }
        }
        full
    }
}

/// The bucket of one band of the signs.
fn bucket(signs: u64, band: usize) -> usize {
    let value = (signs >> (band * BAND_BITS)) as usize & ((1 << BAND_BITS) - 1);
    (band << BAND_BITS) | value
}

#[cfg(test)]
mod tests {
    use super::{super::signature::tests::picture, *};
    use crate::progress::Silent;
    use image::RgbImage;

    fn cluster_of(images: &[RgbImage]) -> Clusters {
        let signatures: Vec<_> = images.iter().map(Signature::of).collect();
        cluster(&signatures.iter().collect::<Vec<_>>(), 0.98, &Silent)
    }

    #[test]
    fn copies_of_each_picture_meet_and_pictures_stay_apart() {
        let images: Vec<_> = (0..60)
            .map(|i| picture(i % 20, 64, 1.0, (i / 20) as f64))
            .collect();
        let found = cluster_of(&images);
        let want: Vec<u32> = (0..60).map(|i| i % 20).collect();
        assert_eq!(found.representative, want);
        assert_eq!(found.crowded, 0);
    }

    #[test]
    fn nearness_to_others_is_not_nearness_to_each_other() {
        let picture = |seed| Signature::of(&picture(seed, 64, 1.0, 0.0));
        let (one, other, third) = (picture(1), picture(2), picture(3));
        let near = near_to(&[&one], &[&other, &one, &other, &third], 0.98);
        assert_eq!(near.found, [false, true, false, false]);
        assert_eq!(near.crowded, 0);
        let flat = |level| Signature::of(&RgbImage::from_pixel(40, 40, image::Rgb([level; 3])));
        let near = near_to(&[&flat(9), &one], &[&flat(9), &flat(70)], 0.98);
        assert_eq!(near.found, [true, false]);
    }

    #[test]
    fn a_chain_of_small_steps_is_not_one_cluster() {
        // From one picture to another in 40 steps: neighbours correlate above .98, the ends don't.
        let (from, to) = (picture(1, 64, 1.0, 0.0), picture(2, 64, 1.0, 0.0));
        let steps = (0..=40u32).map(|step| {
            let mut image = from.clone();
            image.iter_mut().zip(to.iter()).for_each(|(a, b)| {
                *a = ((u32::from(*a) * (40 - step) + u32::from(*b) * step) / 40) as u8;
            });
            image
        });
        let signatures: Vec<_> = steps.map(|image| Signature::of(&image)).collect();
        let neighbours = signatures
            .windows(2)
            .all(|pair| pair[0].correlation(&pair[1]) > 0.98);
        assert!(neighbours);
        let found = cluster(&signatures.iter().collect::<Vec<_>>(), 0.98, &Silent);
        for (signature, leader) in signatures.iter().zip(&found.representative) {
            assert!(signature.correlation(&signatures[*leader as usize]) >= 0.98);
        }
        assert!(found.representative[40] != found.representative[0]);
    }

    #[test]
    fn many_images_that_the_hash_confuses_take_linear_time() {
        // The signs of one picture for all, though their pixels differ: every bucket is the same few.
        let images: Vec<_> = (0..7000).map(|seed| picture(seed, 16, 1.0, 0.0)).collect();
        let mut signatures: Vec<_> = images.iter().map(Signature::of).collect();
        let signs = signatures[0].signs;
        for (i, signature) in signatures.iter_mut().enumerate() {
            signature.signs = signs;
            signature.signs[0] ^= 1 << (i % 64);
        }
        let found = cluster(&signatures.iter().collect::<Vec<_>>(), 0.98, &Silent);
        assert!(found.comparisons <= 7000 * COMPARISONS as u64);
        assert!(found.crowded > 6000, "{}", found.crowded);
        assert!(
            found
                .representative
                .iter()
                .zip(0..)
                .all(|(leader, i)| *leader == i)
        );
    }

    #[test]
    fn the_hash_proposes_what_is_near() {
        // Noise that leaves a correlation just above .98.
        let (mut near, mut found) = (0, 0);
        for seed in 0..1000 {
            let pair = [picture(seed, 32, 1.0, 0.0), picture(seed, 32, 1.0, 8.0)];
            let signatures = pair.each_ref().map(Signature::of);
            let correlation = signatures[0].correlation(&signatures[1]);
            if (0.98..0.99).contains(&correlation) {
                near += 1;
                found += usize::from(cluster_of(&pair).representative == [0, 0]);
            }
        }
        assert!(near >= 150, "{near}");
        assert!(found as f64 >= 0.93 * near as f64, "{found} of {near}");
    }
}
