//! Many measurements of one kind, as the benches print them.

/// Median and extremes.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let n = sorted.len();
        let median = if n > 0 && n.is_multiple_of(2) { (at(n / 2 - 1) + at(n / 2)) / 2.0 } else { at(n / 2) };
        Self { median, min: at(0), max: at(n.wrapping_sub(1)) }
    }
}
