//! Draws a series of the last fifteen minutes as a small SVG.
//!
//! In:  figures of each step, oldest first. A series that began later is shorter, and stands at the right.
//! Out: SVG: an area, and a red tick for each step with errors; what it shows in words, for those who cannot see it.

use std::fmt::Write;

use super::format;

/// New connections and errors in each step of `step_s` seconds.
pub(super) fn rates(connections: &[u32], errors: &[u32], step_s: u64) -> String {
    let sum = |chunk: &[u32]| chunk.iter().map(|value| u64::from(*value)).sum();
    let (columns, failed) = (columns(connections, sum), columns(errors, sum));
    let most = columns.iter().copied().max().unwrap_or(0);
    let mut words = match most {
        0 => "None in 15 minutes".to_owned(),
        _ => format!("At most {}", format::rate(&(most as f64 / (step_s.max(1) * MERGED as u64) as f64))),
    };
    match failed.iter().sum::<u64>() {
        0 => {}
        failures => words += &format!(", {} errors", format::count(failures)),
    }
    draw(&words, &columns, &failed)
}

/// How many there were at the end of each step.
pub(super) fn levels(values: &[u32]) -> String {
    let columns = columns(values, |chunk| chunk.iter().copied().max().map_or(0, u64::from));
    draw(&format!("At most {}", format::count(columns.iter().max().unwrap_or(&0))), &columns, &[])
}

/// Joins steps to columns from the end on, so that only the first column may be of fewer.
fn columns(values: &[u32], join: impl FnMut(&[u32]) -> u64) -> Vec<u64> {
    let latest = &values[values.len().saturating_sub(STEPS)..];
    let mut columns: Vec<u64> = latest.rchunks(MERGED).map(join).collect();
    columns.reverse();
    columns
}

fn draw(words: &str, columns: &[u64], failed: &[u64]) -> String {
    let most = columns.iter().copied().max().unwrap_or(0);
    let mut out = format!(
        "<svg class=spark viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=none role=img><title>{words}</title>"
    );
    // Writing to a String cannot fail.
    if most > 0 {
        // One column alone would have no width.
        let start = WIDTH + 1 - columns.len().max(2);
        let height = |column: &u64| BASE - column * (BASE - TOP) / most;
        let mut last = height(&columns[0]);
        // The left edge of a whole series is outside.
        let edge = if start == 0 { "-9".to_owned() } else { start.to_string() };
        let _ = write!(out, "<path class=area d=\"M{edge} {BELOW}V{last}H{start}");
        for (at, column) in columns[1..].iter().enumerate() {
            // Differences are short, and a minus separates, too.
            let down = height(column).cast_signed() - last.cast_signed();
            let _ = write!(out, "{}1{}{down}", if at == 0 { "l" } else { " " }, if down < 0 { "" } else { " " });
            last = height(column);
        }
        let _ = write!(out, "H99V{BELOW}\"/>");
    }
    let mut ticks = String::new();
    for (at, _) in failed.iter().enumerate().filter(|(_, failed)| **failed > 0) {
        let _ = write!(ticks, "M{} {BASE}v-5", WIDTH + 1 - failed.len() + at);
    }
    if !ticks.is_empty() {
        let _ = write!(out, "<path class=fails d=\"{ticks}\"/>");
    }
    out + "</svg>"
}

/// The series of all that is listed, added up.
pub(super) fn sum<'s>(series: impl Iterator<Item = &'s [u32]>) -> Vec<u32> {
    series.fold(Vec::new(), |mut sum, values| {
        if values.len() > sum.len() {
            let padding = values.len() - sum.len();
            sum.splice(0..0, std::iter::repeat_n(0, padding));
        }
        let from = sum.len() - values.len();
        sum[from..].iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.saturating_add(*value));
        sum
    })
}

/// Of 10 s.
const STEPS: usize = 90;
/// Steps of one column.
const MERGED: usize = 3;
const WIDTH: usize = STEPS / MERGED - 1;
const HEIGHT: u64 = 18;
const BASE: u64 = 17;
const TOP: u64 = 1;
const BELOW: u64 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_series_stands_at_the_right_and_its_peak_reaches_the_top() {
        let svg = rates(&[0, 0, 0, 0, 60, 0], &[0, 0, 0, 0, 3, 0], 10);
        assert!(svg.contains("<title>At most 2/s, 3 errors</title>"), "{svg}");
        assert!(svg.contains("d=\"M28 30V17H28l1-16H99V30\""), "{svg}");
        assert!(svg.contains("class=fails d=\"M29 17v-5\""), "{svg}");
        let long = rates(&[1; 500], &[], 10);
        assert!(long.contains("M-9 30V1H0l1 0 1 0 ") && long.len() < 400, "{long}");
        assert!(rates(&[5], &[], 10).contains("M28 30V1H28H99V30"), "one column is visible, too");
        assert!(levels(&[3, 9, 4]).contains("At most 9<"));
    }

    #[test]
    fn nothing_has_no_area() {
        let svg = rates(&[], &[], 10);
        assert!(svg.contains("None in 15 minutes") && !svg.contains("area"), "{svg}");
    }

    #[test]
    fn sums_align_at_their_end() {
        assert_eq!(sum([&[1, 2, 3][..], &[10][..]].into_iter()), [1, 2, 13]);
        assert_eq!(sum([&[10][..], &[1, 2, 3][..]].into_iter()), [1, 2, 13]);
    }
}
