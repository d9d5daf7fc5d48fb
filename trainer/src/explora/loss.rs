//! The parts of DINOv2's objective, and what tells whether it has collapsed.

use tch::{Kind, Tensor, no_grad};

/// Keeps distances and lengths from 0, as in DINOv2's KoLeo.
const EPSILON: f64 = 1e-8;

/// The teacher's targets of `logits` `[n, K]`: their softmax at this temperature, scaled in turn until every prototype gets
/// the same share of the batch and every row sums to 1 (Cuturi: Sinkhorn Distances, 2013; Caron et al.: Unsupervised Learning
/// of Visual Features by Contrasting Cluster Assignments, 2020). Without rounds it is the plain softmax.
///
/// In logarithms, so that no temperature is too low.
pub(crate) fn sinkhorn_knopp(logits: &Tensor, temperature: f64, rounds: usize) -> Tensor {
    let mut log = logits / temperature;
    if rounds == 0 {
        return log.softmax(-1, Kind::Float);
    }
    let (rows, prototypes) = log.size2().expect("[n, K]");
    let share = (rows as f64 / prototypes as f64).ln();
    for _ in 0..rounds {
        log = &log - log.logsumexp([0], true) + share;
        log = &log - log.logsumexp([1], true);
    }
    log.exp()
}

/// The cross-entropy of each row of the student's `logits` `[n, K]` at its temperature with its target.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &Tensor, temperature: f64) -> Tensor {
    let log = (logits / temperature).log_softmax(-1, Kind::Float);
    -(targets * log).sum_dim_intlist(-1, false, Kind::Float)
}

/// DINO's loss (Caron et al.: Emerging Properties in Self-Supervised Vision Transformers, 2021): the mean over all pairs of
/// a student's part and a large part that the teacher saw, unless these are the same one. The student's logits `[n, K]` come
/// in the order of the parts, the two large ones first.
pub(crate) fn dino(student: &[Tensor], targets: &[Tensor; 2], temperature: f64) -> Tensor {
    let pair = |logits: &Tensor, target: &Tensor| {
        cross_entropy(logits, target, temperature).mean(Kind::Float)
    };
    let both = &targets[0] + &targets[1];
    let mut sum = pair(&student[0], &targets[1]) + pair(&student[1], &targets[0]);
    for local in &student[2..] {
        sum += pair(local, &both);
    }
    let pairs = 2 + 2 * (student.len() - 2);
    sum / pairs as f64
}

/// iBOT's loss (Zhou et al.: iBOT: Image BERT Pre-Training with Online Tokenizer, 2022): the mean over `images` of the mean
/// over each one's hidden patches, of which the rows `[m, K]` are; `weights` `[m]` holds 1 / (hidden patches of its image).
/// Images without hidden patches count as 0.
pub(crate) fn ibot(
    logits: &Tensor,
    targets: &Tensor,
    weights: &Tensor,
    images: usize,
    temperature: f64,
) -> Tensor {
    let losses = cross_entropy(logits, targets, temperature);
    (losses * weights).sum(Kind::Float) / images as f64
}

/// KoLeo (Sablayrolles et al.: Spreading Vectors for Similarity Search, 2019): −mean ln of each normalised row's distance to
/// its nearest neighbour. A row alone has none: 0.
pub(crate) fn koleo(features: &Tensor) -> Tensor {
    let rows = features.size()[0];
    if rows < 2 {
        return features.sum(Kind::Float) * 0.0;
    }
    let unit = normalised(features, EPSILON);
    let nearest = no_grad(|| {
        let cosines = unit.matmul(&unit.tr());
        let itself = Tensor::eye(rows, (Kind::Bool, unit.device()));
        cosines.masked_fill(&itself, -2.0).argmax(1, false)
    });
    let difference = &unit - unit.index_select(0, &nearest) + EPSILON;
    let distance = difference.norm_scalaropt_dim(2.0, [1], false);
    -(distance + EPSILON).log().mean(Kind::Float)
}

/// The rows at length 1.
pub(crate) fn normalised(rows: &Tensor, epsilon: f64) -> Tensor {
    let length = rows.norm_scalaropt_dim(2.0, [-1], true);
    rows / length.clamp_min(epsilon)
}

/// The entropy in nats of each row of `[n, K]`.
pub(crate) fn entropy(probabilities: &Tensor) -> Tensor {
    let log = probabilities.clamp_min(f64::from(f32::MIN_POSITIVE)).log();
    -(probabilities * log).sum_dim_intlist(-1, false, Kind::Float)
}

/// How much the directions of the rows of `[n, D]` differ: √(1 − ‖mean direction‖²), 0 where all are the same.
pub(crate) fn deviation(features: &Tensor) -> f64 {
    let unit = normalised(features, EPSILON);
    let centred = &unit - unit.mean_dim(0, true, Kind::Float);
    let squares = centred.square().sum_dim_intlist(-1, false, Kind::Float);
    squares.mean(Kind::Double).sqrt().double_value(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(rows: &[&[f32]]) -> Tensor {
        let flat: Vec<f32> = rows.concat();
        Tensor::from_slice(&flat).reshape([rows.len() as i64, -1])
    }

    fn rows(tensor: &Tensor) -> Vec<Vec<f64>> {
        let rows = tensor.to_kind(Kind::Double);
        Vec::try_from(rows).unwrap()
    }

    fn number(tensor: &Tensor) -> f64 {
        tensor.double_value(&[])
    }

    fn assert_close(got: f64, want: f64, name: &str) {
        assert!(
            (got - want).abs() <= 2e-6 * (1.0 + want.abs()),
            "{name}: {got} for {want}"
        );
    }

    /// The algorithm as it is published: exponentials, divided by sums in turn.
    fn by_division(logits: &[&[f32]], temperature: f64, rounds: usize) -> Vec<Vec<f64>> {
        let (n, k) = (logits.len(), logits[0].len());
        let mut q: Vec<Vec<f64>> = logits
            .iter()
            .map(|row| {
                row.iter()
                    .map(|x| (f64::from(*x) / temperature).exp())
                    .collect()
            })
            .collect();
        let total: f64 = q.iter().flatten().sum();
        q.iter_mut().flatten().for_each(|x| *x /= total);
        for _ in 0..rounds {
            for j in 0..k {
                let sum: f64 = q.iter().map(|row| row[j]).sum();
                q.iter_mut().for_each(|row| row[j] /= sum * k as f64);
            }
            for row in &mut q {
                let sum: f64 = row.iter().sum();
                row.iter_mut().for_each(|x| *x /= sum * n as f64);
            }
        }
        q.iter_mut().flatten().for_each(|x| *x *= n as f64);
        q
    }

    const LOGITS: [&[f32]; 4] = [
        &[0.9, 0.1, -0.2],
        &[0.8, 0.2, 0.1],
        &[0.7, -0.3, 0.3],
        &[0.9, 0.0, -0.1],
    ];

    #[test]
    fn centring_follows_the_published_algorithm_and_balances() {
        let logits = tensor(&LOGITS);
        for rounds in [1, 3] {
            let got = rows(&sinkhorn_knopp(&logits, 0.1, rounds));
            let want = by_division(&LOGITS, 0.1, rounds);
            for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
                assert_close(*got, *want, &format!("{rounds} rounds"));
            }
        }
        let even = rows(&sinkhorn_knopp(&logits, 0.1, 200));
        for row in &even {
            assert_close(row.iter().sum(), 1.0, "a row's sum");
        }
        for j in 0..3 {
            let sum: f64 = even.iter().map(|row| row[j]).sum();
            assert_close(sum, 4.0 / 3.0, "a column's sum");
        }
    }

    #[test]
    fn low_temperatures_do_not_overflow_and_no_rounds_are_a_softmax() {
        let logits = tensor(&LOGITS);
        for (temperature, rounds) in [(1e-4, 3), (1e-4, 0), (0.04, 3)] {
            let targets = sinkhorn_knopp(&logits, temperature, rounds);
            let sums = rows(&targets.sum_dim_intlist(-1, true, Kind::Float));
            for sum in sums.concat() {
                assert_close(sum, 1.0, "a row's sum");
            }
        }
        let plain = rows(&sinkhorn_knopp(&tensor(&[&[0.0, 0.1]]), 0.1, 0));
        let e = 1.0_f64.exp();
        assert_close(plain[0][1], e / (1.0 + e), "softmax");
    }

    #[test]
    fn cross_entropies_have_their_values_by_hand() {
        // Softmax of (0, ln 3) at temperature 1: 1/4 and 3/4.
        let logits = tensor(&[&[0.0, 3.0_f32.ln()]]);
        let target = tensor(&[&[0.25, 0.75]]);
        let want = -(0.25 * 0.25_f64.ln() + 0.75 * 0.75_f64.ln());
        let got = cross_entropy(&logits, &target, 1.0);
        assert_close(number(&got.mean(Kind::Float)), want, "a target of its own");
        assert_close(number(&entropy(&target).mean(Kind::Float)), want, "entropy");
        let doubled = cross_entropy(&(&logits * 2.0), &target, 2.0);
        assert_close(number(&doubled.mean(Kind::Float)), want, "temperature");
    }

    #[test]
    fn no_part_of_a_picture_learns_from_itself() {
        let (a, b) = (tensor(&[&[1.0, 0.0]]), tensor(&[&[0.0, 1.0]]));
        let half = tensor(&[&[0.0, 0.0]]);
        let sure = |sign: f32| tensor(&[&[sign * 30.0, -sign * 30.0]]);
        let targets = [a, b];
        let ln2 = 2.0_f64.ln();
        let cases: [(&str, Vec<Tensor>, f64); 4] = [
            // Each says what the teacher says of the other one.
            ("of each other", vec![sure(-1.0), sure(1.0)], 0.0),
            // Each says what the teacher says of itself: 60 nats wrong.
            ("of themselves", vec![sure(1.0), sure(-1.0)], 60.0),
            ("of neither", vec![half.copy(), half.copy()], ln2),
            // Two pairs of large parts at 0, two of the small one at ln 2.
            (
                "with a small part",
                vec![sure(-1.0), sure(1.0), half],
                ln2 / 2.0,
            ),
        ];
        for (name, student, want) in cases {
            assert_close(number(&dino(&student, &targets, 1.0)), want, name);
        }
    }

    #[test]
    fn hidden_patches_count_by_their_images() {
        // Image 0 hides one patch, image 1 three, images 2 and 3 none.
        let logits = Tensor::zeros([4, 2], (Kind::Float, tch::Device::Cpu));
        let targets = tensor(&[&[1.0, 0.0], &[0.5, 0.5], &[0.0, 1.0], &[0.2, 0.8]]);
        let weights = Tensor::from_slice(&[1.0_f32, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]);
        let got = number(&ibot(&logits, &targets, &weights, 4, 0.1));
        assert_close(got, 2.0 * 2.0_f64.ln() / 4.0, "two images of four at ln 2");
    }

    #[test]
    fn koleo_is_the_mean_log_distance_to_the_nearest_neighbour() {
        // Directions at 0°, 60° and 180°: chords of 1, 1 and √3.
        let half = 0.5_f32;
        let features = tensor(&[&[2.0, 0.0], &[half, half * 3.0_f32.sqrt()], &[-3.0, 0.0]]);
        let want = -(2.0 * 1.0_f64.ln() + 3.0_f64.sqrt().ln()) / 3.0;
        assert_close(number(&koleo(&features)), want, "three directions");
        assert_close(number(&koleo(&tensor(&[&[1.0, 2.0]]))), 0.0, "one alone");
    }

    #[test]
    fn deviation_is_zero_where_all_directions_are_the_same() {
        let cases: [(&str, &[&[f32]], f64); 3] = [
            ("one direction", &[&[1.0, 0.0], &[5.0, 0.0]], 0.0),
            ("opposite", &[&[1.0, 0.0], &[-2.0, 0.0]], 1.0),
            ("a right angle", &[&[1.0, 0.0], &[0.0, 3.0]], 0.5_f64.sqrt()),
        ];
        for (name, features, want) in cases {
            assert_close(deviation(&tensor(features)), want, name);
        }
    }
}
