//! Curves over a share from 0 to 1.

use super::{Anchor, GREY, INK, Page, colour, mark, ticks};

/// A line with a name.
pub(crate) struct Curve {
    pub(crate) name: String,
    /// x from 0 to 1, rising.
    pub(crate) points: Vec<(f64, f64)>,
}

const LEFT: f64 = 60.0;
const TOP: f64 = 20.0;
const WIDE: f64 = 460.0;
const HIGH: f64 = 280.0;
/// Room for names.
const RIGHT: f64 = 170.0;

/// All curves in one pair of axes, y from 0.
pub(crate) fn curves(x_name: &str, y_name: &str, curves: &[Curve]) -> String {
    let mut page = Page::new(LEFT + WIDE + RIGHT, TOP + HIGH + 50.0);
    let values = curves.iter().flat_map(|curve| curve.points.iter());
    let most = values.fold(0.0_f64, |most, (_, y)| most.max(*y)).max(1e-3) * 1.05;
    let place = |(x, y): (f64, f64)| (LEFT + x * WIDE, TOP + HIGH - y / most * HIGH);
    for tick in ticks(0.0, 1.0) {
        let (x, y) = place((tick, 0.0));
        page.line((x, y), (x, y + 4.0), GREY, 1.0);
        page.text((x, y + 18.0), Anchor::Middle, GREY, &mark(tick));
    }
    for tick in ticks(0.0, most) {
        let (x, y) = place((0.0, tick));
        page.line((x - 4.0, y), (x, y), GREY, 1.0);
        page.text((x - 8.0, y + 4.0), Anchor::End, GREY, &mark(tick));
    }
    page.line(place((0.0, 0.0)), place((1.0, 0.0)), GREY, 1.0);
    page.line(place((0.0, 0.0)), place((0.0, most)), GREY, 1.0);
    let below = (LEFT + WIDE / 2.0, TOP + HIGH + 40.0);
    page.text(below, Anchor::Middle, INK, x_name);
    page.text((8.0, 14.0), Anchor::Start, INK, y_name);
    for (n, curve) in curves.iter().enumerate() {
        let points: Vec<_> = curve.points.iter().map(|point| place(*point)).collect();
        page.path(&points, colour(n));
        let y = TOP + 16.0 * (n as f64 + 1.0);
        let x = LEFT + WIDE + 14.0;
        page.line((x, y - 4.0), (x + 18.0, y - 4.0), colour(n), 2.0);
        page.text((x + 24.0, y), Anchor::Start, INK, &curve.name);
    }
    page.finish()
}
