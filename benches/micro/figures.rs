//! Criterion measures and prints; what it measured is also kept here for the last line, which is JSON.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use criterion::Bencher;

/// Seconds per item, by figure.
static FIGURES: Mutex<BTreeMap<&'static str, Vec<f64>>> = Mutex::new(BTreeMap::new());

/// Measures `run`, which does `items` of what is counted on what `prepare` made anew (not measured).
pub fn measure<T>(
    b: &mut Bencher<'_>,
    figure: &'static str,
    items: u64,
    mut prepare: impl FnMut() -> T,
    mut run: impl FnMut(T),
) {
    b.iter_custom(|rounds| {
        let mut spent = Duration::ZERO;
        for _ in 0..rounds {
            let input = prepare();
            let began = Instant::now();
            run(input);
            spent += began.elapsed();
        }
        note(figure, spent.as_secs_f64() / rounds as f64 / items as f64);
        spent
    });
}

pub fn note(figure: &'static str, seconds_per_item: f64) {
    if let Ok(mut figures) = FIGURES.lock() {
        figures.entry(figure).or_default().push(seconds_per_item);
    }
}

/// Prints the median of each figure, as items per second.
pub fn print_last_line() {
    let figures = FIGURES.lock().map(|f| f.clone()).unwrap_or_default();
    let medians = figures.into_iter().map(|(figure, mut values)| {
        values.sort_by(f64::total_cmp);
        let median = values.get(values.len() / 2).copied().unwrap_or(f64::INFINITY);
        (figure.to_owned(), serde_json::Value::from((1.0 / median).round() as u64))
    });
    println!("{}", serde_json::Value::Object(medians.collect()));
}
