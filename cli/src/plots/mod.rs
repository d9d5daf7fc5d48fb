//! Small plots as SVG, written by hand: a page of shapes needs no library.

mod curves;
mod forest;

pub(crate) use curves::{Curve, curves};
pub(crate) use forest::{Estimate, Panel, forest};

use std::fmt::Write as _;

/// Colours that are told apart without colour vision (Okabe and Ito 2008).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];
const GREY: &str = "#888888";
const INK: &str = "#222222";

/// The colour of the n-th thing.
fn colour(n: usize) -> &'static str {
    COLOURS[n % COLOURS.len()]
}

/// A page under way.
struct Page {
    width: f64,
    height: f64,
    shapes: String,
}

/// Where a text begins, ends, or has its middle.
#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

impl Page {
    fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            shapes: String::new(),
        }
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, width: f64) {
        _ = writeln!(
            self.shapes,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}" stroke-width="{width}"/>"#
        );
    }

    fn dot(&mut self, (x, y): (f64, f64), radius: f64, fill: &str, stroke: &str) {
        _ = writeln!(
            self.shapes,
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="{fill}" stroke="{stroke}"/>"#
        );
    }

    fn path(&mut self, points: &[(f64, f64)], colour: &str) {
        let points: Vec<_> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        _ = writeln!(
            self.shapes,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            points.join(" ")
        );
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, colour: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        _ = writeln!(
            self.shapes,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{}</text>"#,
            escaped(text)
        );
    }

    fn finish(self) -> String {
        let Self {
            width,
            height,
            shapes,
        } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{shapes}</svg>\n"
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Values that an axis from `low` to `high` is marked at: about four of 1, 2 or 5 times a power of ten.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 4.0;
    let power = 10.0_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * power)
        .into_iter()
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|n| n as f64 * step).collect()
}

/// A mark's value without the noise of its last bits.
fn mark(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "-0" => "0".to_owned(),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_marked_at_round_values() {
        let cases = [
            ((0.0, 1.0), vec!["0", "0.5", "1"]),
            ((-0.03, 0.011), vec!["-0.02", "0"]),
            ((0.0, 0.2), vec!["0", "0.05", "0.1", "0.15", "0.2"]),
        ];
        for ((low, high), want) in cases {
            let marks: Vec<_> = ticks(low, high).into_iter().map(mark).collect();
            assert_eq!(marks, want, "{low} to {high}");
        }
    }

    #[test]
    fn names_can_not_break_out_of_a_page() {
        let estimate = Estimate {
            name: "<a & b>".to_owned(),
            estimate: 0.1,
            low: 0.0,
            high: 0.2,
            each: vec![0.05, 0.15],
        };
        let panel = Panel {
            title: "Δ".to_owned(),
            estimates: vec![estimate],
        };
        let page = forest(&[panel]);
        assert!(
            page.contains("&lt;a &amp; b&gt;") && !page.contains("<a &"),
            "{page}"
        );
        assert_eq!(page.matches("<circle").count(), 3);
    }

    #[test]
    fn a_plot_of_nothing_that_varies_has_finite_places() {
        let flat = Estimate {
            name: "same".to_owned(),
            estimate: 0.0,
            low: 0.0,
            high: 0.0,
            each: vec![0.0],
        };
        let panel = Panel {
            title: "Δ".to_owned(),
            estimates: vec![flat],
        };
        let curve = Curve {
            name: "no errors".to_owned(),
            points: vec![(0.5, 0.0), (1.0, 0.0)],
        };
        for page in [forest(&[panel]), curves("x", "y", &[curve])] {
            assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        }
    }
}
