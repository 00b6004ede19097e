//! A line chart: loss and the like against the epoch. Owns its layout and the choice of round tick values.

use super::{CHAR_WIDTH_PX, Canvas, FAINT_INK, GRID, INK, LINE_HEIGHT_PX, Rgb, WHITE, shortened, text_width_px};

/// One curve.
#[derive(Debug, Clone)]
pub struct Series<'a> {
    /// Its name in the legend; one without a name is not in it.
    pub name: &'a str,
    /// Its colour.
    pub colour: Rgb,
    /// Dashed rather than solid.
    pub dashed: bool,
    /// (x, y) in order of x; points that are not finite leave a gap.
    pub points: &'a [(f64, f64)],
}

const WIDTH_PX: i32 = 900;
const HEIGHT_PX: i32 = 540;
const TOP_PX: i32 = 48;
const RIGHT_PX: i32 = 28;
const BOTTOM_PX: i32 = 62;

/// A line chart of 900 x 540 px with grid, round tick values, and a legend in the corner where it hides least. A chart without
/// points has empty axes.
pub fn line_chart(title: &str, x_label: &str, y_label: &str, series: &[Series<'_>]) -> Canvas {
    let mut canvas = Canvas::new(WIDTH_PX as u32, HEIGHT_PX as u32, WHITE);
    let [x_ticks, y_ticks] = Ticks::of(series.iter().flat_map(|series| series.points), 10.0);

    let left = 44 + y_ticks.labels().map(|(_, label)| text_width_px(&label)).max().unwrap_or_default();
    let (width, height) = (WIDTH_PX - left - RIGHT_PX, HEIGHT_PX - TOP_PX - BOTTOM_PX);
    let x_px = |x: f64| f64::from(left) + x_ticks.part(x) * f64::from(width);
    let y_px = |y: f64| f64::from(TOP_PX + height) - y_ticks.part(y) * f64::from(height);

    for (value, label) in y_ticks.labels() {
        let y = y_px(value) as i32;
        canvas.fill(left, y, width, 1, GRID);
        canvas.text(left - 8 - text_width_px(&label), y - LINE_HEIGHT_PX / 2, &label, FAINT_INK);
    }
    for (value, label) in x_ticks.labels() {
        let x = x_px(value) as i32;
        canvas.fill(x, TOP_PX, 1, height, GRID);
        canvas.text(x - text_width_px(&label) / 2, TOP_PX + height + 8, &label, FAINT_INK);
    }
    canvas.fill(left, TOP_PX + height, width + 1, 1, FAINT_INK);
    canvas.fill(left, TOP_PX, 1, height, FAINT_INK);
    let title = shortened(title, (width / CHAR_WIDTH_PX) as usize);
    canvas.text(left + (width - text_width_px(&title)) / 2, 17, &title, INK);
    canvas.text(left + (width - text_width_px(x_label)) / 2, HEIGHT_PX - 30, x_label, INK);
    canvas.text_upwards(14, TOP_PX + (height - text_width_px(y_label)) / 2, y_label, INK);

    for series in series {
        let line: Vec<_> = series.points.iter().map(|&(x, y)| (x_px(x), y_px(y))).collect();
        canvas.polyline(&line, 2.0, series.dashed, series.colour);
        if line.len() <= 40 && !series.dashed {
            // Few points: mark them, so that a single epoch can be seen at all.
            for &point in &line {
                canvas.polyline(&[point, point], 6.0, false, series.colour);
            }
        }
    }
    // Places along the curves, close enough that no line passes between them unseen.
    let between = |ends: &[(f64, f64)]| {
        let (from, to) = (ends[0], ends[1]);
        let at = |part: f64| (x_px(from.0 + (to.0 - from.0) * part), y_px(from.1 + (to.1 - from.1) * part));
        (0..=32).map(|part| at(f64::from(part) / 32.0)).collect::<Vec<_>>()
    };
    let places = series.iter().flat_map(|series| series.points.windows(2)).flat_map(between);
    legend(&mut canvas, series, left, &places.collect::<Vec<_>>());
    canvas
}

/// Names of the curves, as many as fit, in the corner with the fewest of the `places` along the curves, which are pixels;
/// upper right if there are several such.
fn legend(canvas: &mut Canvas, series: &[Series<'_>], left: i32, places: &[(f64, f64)]) {
    let mut rows: Vec<_> = series
        .iter()
        .filter(|series| !series.name.is_empty())
        .map(|series| (Some(series), shortened(series.name, 40)))
        .collect();
    let most = ((HEIGHT_PX - TOP_PX - BOTTOM_PX - 32) / 20) as usize;
    if rows.len() > most {
        let more = rows.len() - (most - 1);
        rows.truncate(most - 1);
        rows.push((None, format!("and {more} more")));
    }
    let Some(text_width) = rows.iter().map(|(_, name)| text_width_px(name)).max() else { return };
    let (width, height) = (text_width + 64, 20 * rows.len() as i32 + 12);
    let (right, bottom) = (WIDTH_PX - RIGHT_PX - width - 10, HEIGHT_PX - BOTTOM_PX - height - 10);
    let hidden = |&(x, y): &(i32, i32)| {
        let inside = |at: f64, from: i32, size: i32| at >= f64::from(from) && at <= f64::from(from + size);
        places.iter().filter(|place| inside(place.0, x, width) && inside(place.1, y, height)).count()
    };
    let (top, left) = (TOP_PX + 10, left + 10);
    let corners = [(right, top), (right, bottom), (left, top), (left, bottom)];
    let (x, y) = corners.into_iter().min_by_key(hidden).unwrap_or((right, top));
    canvas.fill(x, y, width, height, WHITE);
    canvas.rect(x, y, width, height, GRID);
    for (row, (series, name)) in (0..).zip(rows) {
        let middle = y + 6 + 20 * row + 10;
        let (from, to, height) = (f64::from(x + 10), f64::from(x + 44), f64::from(middle));
        if let Some(series) = series {
            canvas.polyline(&[(from, height), (to, height)], 2.0, series.dashed, series.colour);
        }
        canvas.text(x + 54, middle - LINE_HEIGHT_PX / 2, &name, INK);
    }
}

/// An axis from `low` to `high` with ticks at the multiples of `step` in between.
pub(super) struct Ticks {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) step: f64,
}

impl Ticks {
    /// The axes x, with about `count` ticks at most, and y of these points. Whole numbers get no ticks between them.
    pub(super) fn of<'p>(points: impl Iterator<Item = &'p (f64, f64)>, count: f64) -> [Ticks; 2] {
        let points: Vec<_> = points.filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        let mut x_ticks = Ticks::over(points.iter().map(|point| point.0), count, 0.0);
        if points.iter().all(|point| point.0.fract() == 0.0) {
            x_ticks.step = x_ticks.step.max(1.0);
        }
        [x_ticks, Ticks::over(points.iter().map(|point| point.1), 8.0, 0.04)]
    }

    /// An axis over all `values`, longer by the share `margin` at both ends, with about `count` ticks at most, at
    /// multiples of 1, 2 or 5 times a power of ten. Values of zero and above get an axis from zero or above.
    pub(super) fn over(values: impl Iterator<Item = f64>, count: f64, margin: f64) -> Ticks {
        let (mut low, mut high) =
            values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // The step must be far above the rounding error of the values.
        let least_span = low.abs().max(high.abs()).max(1e-300) * 1e-6;
        if high - low < least_span {
            let half = if low == 0.0 { 0.5 } else { low.abs() * 0.5 };
            (low, high) = (low - half, high + half);
        }
        let span = high - low;
        let floor = if low >= 0.0 { 0.0 } else { f64::MIN };
        (low, high) = ((low - span * margin).max(floor), high + span * margin);
        let power = 10f64.powf(((high - low) / count).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = step.into_iter().find(|step| (high - low) / step <= count).unwrap_or(10.0 * power);
        Ticks { low, high, step }
    }

    /// The position of `value` between `low` (0) and `high` (1).
    pub(super) fn part(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Tick values and their texts.
    pub(super) fn labels(&self) -> impl Iterator<Item = (f64, String)> + '_ {
        let first = (self.low / self.step - 1e-9).ceil() as i64;
        let last = (self.high / self.step + 1e-9).floor() as i64;
        let largest = self.low.abs().max(self.high.abs());
        (first..=last).map(move |at| {
            let value = at as f64 * self.step;
            let decimals = (-self.step.log10() - 1e-9).ceil().max(0.0) as usize;
            let label = if !(1e-3..1e6).contains(&largest) {
                let digits = ((largest / self.step).log10().ceil().max(0.0)) as usize;
                if at == 0 { "0".into() } else { format!("{value:.digits$e}") }
            } else {
                format!("{value:.decimals$}")
            };
            (value, label)
        })
    }
}
