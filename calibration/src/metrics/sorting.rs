//! Sorting of many 64-bit words by dealing them into heaps, digit by digit from the lowest.

/// Fewer words are compared, more are dealt.
const FEW: usize = 1 << 12;
/// Bits of a digit: as many heaps as a processor likes to write to in turn.
const DIGIT: u32 = 9;
const HEAPS: usize = 1 << DIGIT;
/// Digits that are dealt by; words that agree in all of them are few, and are compared.
const DIGITS: usize = 3;

/// Sorts `words`. What `spare` holds is lost; its room is used again.
pub(super) fn sort(words: &mut Vec<u64>, spare: &mut Vec<u64>) {
    if words.len() < FEW {
        words.sort_unstable();
        return;
    }
    let window = Window::of(words);
    spare.resize(words.len(), 0);
    for (digit, counts) in window.counts(words).iter().enumerate() {
        // Where all words have one digit, dealing moves nothing.
        if !counts.contains(&words.len()) {
            window.deal(words, spare, digit, counts);
            std::mem::swap(words, spare);
        }
    }
    for run in words.chunk_by_mut(|a, b| window.of_word(*a) == window.of_word(*b)) {
        if run.len() > 1 {
            run.sort_unstable();
        }
    }
}

/// The highest bits in which words differ.
struct Window {
    least: u64,
    shift: u32,
}

impl Window {
    fn of(words: &[u64]) -> Self {
        let ends = words.iter().fold((u64::MAX, 0), |(least, most), word| {
            (least.min(*word), most.max(*word))
        });
        let bits = u64::BITS - ends.1.saturating_sub(ends.0).leading_zeros();
        Self {
            least: ends.0,
            shift: bits.saturating_sub(DIGIT * DIGITS as u32),
        }
    }

    fn of_word(&self, word: u64) -> usize {
        ((word - self.least) >> self.shift) as usize
    }

    fn digit(&self, word: u64, digit: usize) -> usize {
        self.of_word(word) >> (DIGIT as usize * digit) & (HEAPS - 1)
    }

    /// How many words have which value in each digit, from the lowest.
    fn counts(&self, words: &[u64]) -> [[usize; HEAPS]; DIGITS] {
        let mut counts = [[0; HEAPS]; DIGITS];
        for word in words {
            for (digit, counts) in counts.iter_mut().enumerate() {
                counts[self.digit(*word, digit)] += 1;
            }
        }
        counts
    }

    /// Copies words to where their digit belongs, those of one value in their order.
    fn deal(&self, words: &[u64], dealt: &mut [u64], digit: usize, counts: &[usize; HEAPS]) {
        let mut next = [0; HEAPS];
        for value in 1..HEAPS {
            next[value] = next[value - 1] + counts[value - 1];
        }
        for word in words {
            let place = &mut next[self.digit(*word, digit)];
            dealt[*place] = *word;
            *place += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::bits;

    #[test]
    fn it_sorts() {
        let words = |n: usize, of: fn(u64) -> u64| (0..n as u64).map(of).collect::<Vec<_>>();
        for (name, words) in [
            ("none", words(0, |i| i)),
            ("few", words(FEW - 1, |i| bits(1, i, 0))),
            ("all of 64 bits", words(3 * FEW + 1, |i| bits(1, i, 0))),
            ("small", words(2 * FEW, |i| bits(1, i, 0) % 100)),
            ("equal", words(FEW, |_| u64::MAX)),
            ("far apart", words(FEW, |i| u64::MAX * (i % 2))),
            (
                "alike but for the last bits",
                words(2 * FEW, |i| {
                    (1 << 62) + bits(1, i, 0) % 2 * (1 << 61) + i * 7 % 64
                }),
            ),
        ] {
            let (mut got, mut want) = (words.clone(), words);
            sort(&mut got, &mut vec![1, 2, 3]);
            want.sort_unstable();
            assert!(got == want, "{name}");
        }
    }
}
