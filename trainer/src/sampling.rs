//! The order of an epoch.

use crate::random::Draw;
use stage1_core::config::Sampling;

/// Which image comes when.
pub struct Order {
    sampling: Sampling,
    seed: u64,
    /// Images by class.
    by_class: Vec<Vec<i64>>,
    images: usize,
}

impl Order {
    /// Of images with these labels; every class has images.
    pub fn new(sampling: Sampling, seed: u64, labels: &[usize], classes: usize) -> Self {
        let mut by_class = vec![Vec::new(); classes];
        for (image, &label) in labels.iter().enumerate() {
            by_class[label].push(image as i64);
        }
        Self {
            sampling,
            seed,
            by_class,
            images: labels.len(),
        }
    }

    /// The images of an epoch (from 1), as many as there are; a function of seed and epoch.
    pub fn of_epoch(&self, epoch: usize) -> Vec<i64> {
        let draw = Draw::Order { epoch };
        match self.sampling {
            Sampling::Natural => draw.permutation(self.seed, self.images),
            Sampling::Balanced => self.balanced(draw),
        }
    }

    /// Each class equally often, but for a remainder of one each; within a class its images in turn, so that no image comes
    /// twice before another of its class came once.
    fn balanced(&self, draw: Draw) -> Vec<i64> {
        let mut numbers = draw.numbers(self.seed);
        let classes = self.by_class.len();
        // Which classes get one more changes from epoch to epoch.
        let mut turns: Vec<_> = (0..classes).collect();
        numbers.shuffle(&mut turns);
        let mut order = Vec::with_capacity(self.images);
        for (turn, &class) in turns.iter().enumerate() {
            let wanted = self.images / classes + usize::from(turn < self.images % classes);
            let images = &self.by_class[class];
            let mut drawn = Vec::with_capacity(wanted + images.len());
            while drawn.len() < wanted {
                let mut round = images.clone();
                numbers.shuffle(&mut round);
                drawn.extend(round);
            }
            order.extend_from_slice(&drawn[..wanted]);
        }
        numbers.shuffle(&mut order);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::counts;

    #[test]
    fn balanced_epochs_hold_each_class_equally_often() {
        let labels: Vec<usize> = (0..100)
            .map(|i| usize::from(i >= 90) + usize::from(i >= 97))
            .collect();
        let order = Order::new(Sampling::Balanced, 3, &labels, 3);
        let epoch = order.of_epoch(1);
        assert_eq!(epoch, order.of_epoch(1));
        assert_ne!(epoch, order.of_epoch(2));
        let drawn: Vec<usize> = epoch.iter().map(|&i| labels[i as usize]).collect();
        let mut sorted = counts(&drawn, 3);
        sorted.sort_unstable();
        assert_eq!(sorted, [33, 33, 34]);
        // The three images of the smallest class come in turn.
        let mut times = vec![0; 100];
        epoch.iter().for_each(|&i| times[i as usize] += 1);
        assert!(
            times[97..].iter().all(|&n| (11..=12).contains(&n)),
            "{times:?}"
        );
        assert!(times[..90].iter().all(|&n| n <= 1));
    }

    #[test]
    fn natural_epochs_hold_each_image_once() {
        let order = Order::new(Sampling::Natural, 3, &[0, 1, 1, 0], 2);
        let mut epoch = order.of_epoch(1);
        epoch.sort_unstable();
        assert_eq!(epoch, [0, 1, 2, 3]);
    }
}
