//! A line chart as an SVG element of a page, whose style gives it colours and fonts: so it follows a dark scheme, and stays
//! sharp at any size. Owns its layout, and the escaping of text for pages.

use super::line_chart::Ticks;
use std::fmt::Write;

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;

/// The most points of a curve that are marked, each with its value.
const MARKED: usize = 60;

/// A line chart of 400 x 250 units with grid, round tick values and no legend, for someone who hears it called `title`. Curve N is a `path`
/// of the class `curve cN`, and its points, if they are few, are circles of the class `cN` that tell their values; grid and
/// axis texts are `line` and `text`. Points that are not finite leave a gap.
pub fn line_chart_svg(title: &str, curves: &[(&str, &[(f64, f64)])]) -> String {
    let [x_ticks, y_ticks] = Ticks::of(curves.iter().flat_map(|(_, points)| *points), 8.0);
    let x_at = |x: f64| LEFT + x_ticks.part(x) * (WIDTH - LEFT - RIGHT);
    let y_at = |y: f64| HEIGHT - BOTTOM - y_ticks.part(y) * (HEIGHT - TOP - BOTTOM);
    let title = escaped(title);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
    for (value, label) in y_ticks.labels() {
        let (y, right, x) = (y_at(value), WIDTH - RIGHT, LEFT - 8.0);
        let _ = write!(svg, "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let _ = write!(svg, "<text x=\"{x}\" y=\"{y:.1}\" dy=\"4\" text-anchor=\"end\">{label}</text>");
    }
    for (value, label) in x_ticks.labels() {
        let _ =
            write!(svg, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", x_at(value), HEIGHT - 10.0);
    }
    for (at, (name, points)) in curves.iter().enumerate() {
        let (mut path, mut marks, mut pen) = (String::new(), String::new(), 'M');
        for &(x, y) in *points {
            if !(x.is_finite() && y.is_finite()) {
                pen = 'M';
                continue;
            }
            let (left, top) = (x_at(x), y_at(y));
            let _ = write!(path, "{pen}{left:.1} {top:.1}");
            pen = 'L';
            if points.len() <= MARKED {
                let told = format!("{}, epoch {x}: {}", escaped(name), brief(y));
                let _ = write!(
                    marks,
                    "<circle class=\"c{at}\" cx=\"{left:.1}\" cy=\"{top:.1}\" r=\"3\"><title>{told}</title></circle>"
                );
            }
        }
        let _ = write!(svg, "<path class=\"curve c{at}\" d=\"{path}\"/>{marks}");
    }
    svg + "</svg>"
}

/// A number with four digits behind the point, or with three digits if it is small.
fn brief(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-3 { format!("{value:.2e}") } else { format!("{value:.4}") }
}

/// The text as it may stand in an element or in an attribute of HTML or XML, whatever it holds; a character that XML has
/// no place for becomes U+FFFD.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\t' | '\n' | '\r' => safe.push(' '),
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            control if control.is_control() => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}
