//! Lines of values in another length.

/// How lines of one length become lines of another: each value is a mean of those around its place, with weights that fall off linearly.
#[derive(Debug, Clone)]
pub struct Resampling {
    from: usize,
    /// Of each value: the first place that it is of, and the weights from there on, whose sum is 1.
    taps: Vec<(usize, Vec<f32>)>,
}

impl Resampling {
    /// Neither length may be 0.
    pub fn new(from: usize, to: usize) -> Self {
        let step = from as f32 / to as f32;
        let reach = step.max(1.0);
        let taps = |at: usize| {
            let center = (at as f32 + 0.5) * step;
            let (first, end) = ((center - reach).max(0.0) as usize, ((center + reach).ceil() as usize).min(from));
            let weights = (first..end).map(|place| (1.0 - (place as f32 + 0.5 - center).abs() / reach).max(0.0));
            let weights: Vec<f32> = weights.collect();
            let sum: f32 = weights.iter().sum();
            (first, weights.into_iter().map(|weight| weight / sum).collect())
        };
        Self { from, taps: (0..to).map(taps).collect() }
    }

    /// Lines one after the other.
    pub fn lines(&self, values: Vec<f32>) -> Vec<f32> {
        if self.from == self.taps.len() {
            return values;
        }
        let value = |line: &[f32], (first, weights): &(usize, Vec<f32>)| -> f32 {
            line.iter().skip(*first).zip(weights).map(|(value, weight)| value * weight).sum()
        };
        let lines = values.chunks_exact(self.from.max(1));
        lines.flat_map(|line| self.taps.iter().map(move |taps| value(line, taps))).collect()
    }

    /// For each value of the longer or shorter line: the first place that it is of, and the weights from there on.
    pub fn taps(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.taps.iter().map(|(first, weights)| (*first, weights.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_longer_and_shorter() {
        assert_eq!(Resampling::new(2, 4).lines(vec![0.0, 4.0]), [0.0, 1.0, 3.0, 4.0]);
        // Weights of 3, 3 and 1, for the fourth is out of reach.
        let shorter = Resampling::new(4, 2).lines(vec![1.0, 1.0, 3.0, 3.0, 0.0, 0.0, 0.0, 7.0]);
        let expected = [9.0 / 7.0, 19.0 / 7.0, 0.0, 3.0];
        assert!(shorter.iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{shorter:?}");
    }

    #[test]
    fn weights_are_within_the_line_and_add_up_to_one() {
        for (from, to) in [(128, 8_192), (8_192, 128), (129, 128), (128, 129), (1, 7), (7, 1), (5, 5)] {
            let resampling = Resampling::new(from, to);
            assert_eq!(resampling.taps().count(), to);
            for (first, weights) in resampling.taps() {
                assert!(first + weights.len() <= from, "{from} to {to}");
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{from} to {to}: {weights:?}");
            }
        }
    }
}
