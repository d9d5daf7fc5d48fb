//! Estimates with their intervals, one below the other.

use super::{Anchor, GREY, INK, Page, colour, mark, ticks};

/// Estimates of one thing.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) estimates: Vec<Estimate>,
}

/// A value, its interval, and what it is the mean of.
pub(crate) struct Estimate {
    pub(crate) name: String,
    pub(crate) estimate: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) each: Vec<f64>,
}

const NAMES: f64 = 150.0;
const WIDE: f64 = 230.0;
const GAP: f64 = 24.0;
const TOP: f64 = 40.0;
const ROW: f64 = 34.0;

/// Panels side by side, each with a line at 0.
pub(crate) fn forest(panels: &[Panel]) -> String {
    let rows = panels.iter().map(|panel| panel.estimates.len()).max();
    let height = TOP + ROW * rows.unwrap_or(0) as f64 + 40.0;
    let width = NAMES + panels.len() as f64 * (WIDE + GAP);
    let mut page = Page::new(width, height);
    for (n, panel) in panels.iter().enumerate() {
        let left = NAMES + n as f64 * (WIDE + GAP);
        draw(&mut page, panel, left, height - 40.0, n == 0);
    }
    page.finish()
}

fn draw(page: &mut Page, panel: &Panel, left: f64, bottom: f64, named: bool) {
    let values = panel.estimates.iter().flat_map(|e| {
        let each = e.each.iter().copied();
        each.chain([e.low, e.high, e.estimate, 0.0])
    });
    let (low, high) = values.fold((0.0_f64, 0.0_f64), |(low, high), x| {
        (low.min(x), high.max(x))
    });
    // Room on both sides, and some where nothing differs.
    let room = ((high - low) * 0.05).max(1e-3);
    let (low, high) = (low - room, high + room);
    let x = |value: f64| left + (value - low) / (high - low) * WIDE;
    page.text((left + WIDE / 2.0, 20.0), Anchor::Middle, INK, &panel.title);
    page.line((left, bottom), (left + WIDE, bottom), GREY, 1.0);
    for tick in ticks(low, high) {
        page.line((x(tick), bottom), (x(tick), bottom + 4.0), GREY, 1.0);
        page.text((x(tick), bottom + 18.0), Anchor::Middle, GREY, &mark(tick));
    }
    page.line((x(0.0), TOP - 10.0), (x(0.0), bottom), GREY, 1.0);
    for (row, estimate) in panel.estimates.iter().enumerate() {
        let y = TOP + ROW * (row as f64 + 0.5);
        if named {
            page.text((left - 12.0, y + 4.0), Anchor::End, INK, &estimate.name);
        }
        page.line(
            (x(estimate.low), y),
            (x(estimate.high), y),
            colour(row),
            3.0,
        );
        for each in &estimate.each {
            page.dot((x(*each), y), 3.0, "none", colour(row));
        }
        page.dot((x(estimate.estimate), y), 5.0, colour(row), colour(row));
    }
}
