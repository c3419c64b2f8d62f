//! Line charts as SVG: a mean per iteration with its standard error, or a figure per training step.

use std::fmt::Write as _;

/// One line of a chart.
#[derive(Debug, Clone)]
pub(super) struct Series {
    /// Shown in the legend, and to screen readers; plain text.
    pub(super) name: String,
    /// In order.
    pub(super) points: Vec<Point>,
}

/// One point of it.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// The iteration or the step.
    pub(super) at: u32,
    pub(super) mean: f64,
    pub(super) error: Option<f64>,
    /// What is behind it; an address of this site, safe in an attribute.
    pub(super) link: Option<String>,
}

/// More points of a line than these are shown as the line alone.
const DOTS: usize = 60;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;

/// A chart of `series` over what `axis` names; empty without a point.
pub(super) fn lines(title: &str, axis: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|line| &line.points);
    if points().next().is_none() {
        return String::new();
    }
    let low = points().map(|p| p.mean - p.error.unwrap_or_default()).fold(f64::INFINITY, f64::min);
    let high = points().map(|p| p.mean + p.error.unwrap_or_default()).fold(f64::NEG_INFINITY, f64::max);
    // A flat line stands in the middle.
    let room = ((high - low) * 0.1).max(0.01);
    let (low, high) = (low - room, high + room);
    let last = points().map(|p| p.at).max().unwrap_or_default().max(1);
    let x = |at: u32| LEFT + (WIDTH - LEFT - RIGHT) * f64::from(at) / f64::from(last);
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low);
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escaped(title)
    );
    let digits = if high - low > 20.0 { 0 } else { 2 };
    for step in 0..=3 {
        let value = low + (high - low) * f64::from(step) / 3.0;
        let at = y(value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.digits$}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for at in (0..=last).step_by((last as usize / 10).max(1)) {
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at}</text>",
            x(at),
            HEIGHT - 8.0
        );
    }
    for (index, line) in series.iter().enumerate() {
        let path: Vec<String> = line.points.iter().map(|p| format!("{:.1},{:.1}", x(p.at), y(p.mean))).collect();
        let _ = write!(svg, "<g class=\"series s{}\"><polyline points=\"{}\"/>", index % 6, path.join(" "));
        for point in line.points.iter().filter(|_| line.points.len() <= DOTS) {
            let (px, py) = (x(point.at), y(point.mean));
            let error = point.error.unwrap_or_default();
            let told = point.error.map(|error| format!(" ± {error:.2}")).unwrap_or_default();
            let (name, at, mean) = (escaped(&line.name), point.at, point.mean);
            let dot = format!(
                "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"4\"><title>{name}: {axis} {at}, {mean:.2}{told}</title></circle>"
            );
            let dot = point.link.as_ref().map_or_else(|| dot.clone(), |link| format!("<a href=\"{link}\">{dot}</a>"));
            let _ = write!(
                svg,
                "<line class=\"error\" x1=\"{px:.1}\" x2=\"{px:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>{dot}",
                y(mean - error),
                y(mean + error)
            );
        }
        svg.push_str("</g>");
    }
    svg + "</svg>"
}

/// A text inside SVG.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A small line without a scale, of two values or more; empty otherwise.
pub(super) fn spark(title: &str, values: &[f64]) -> String {
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    if values.len() < 2 {
        return String::new();
    }
    let x = |index: usize| 2.0 + 76.0 * index as f64 / (values.len() - 1) as f64;
    let y = |value: f64| if high > low { 18.0 - 16.0 * (value - low) / (high - low) } else { 10.0 };
    let points: Vec<String> =
        values.iter().enumerate().map(|(index, value)| format!("{:.1},{:.1}", x(index), y(*value))).collect();
    format!(
        "<svg class=\"spark\" viewBox=\"0 0 80 20\" role=\"img\" aria-label=\"{}\"><polyline points=\"{}\"/></svg>",
        escaped(title),
        points.join(" ")
    )
}

/// A part of a whole, from 0 to 1, as a bar.
pub(super) fn bar(share: f64) -> String {
    let width = share.clamp(0.0, 1.0) * 100.0;
    format!(
        "<svg class=\"bar\" viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect width=\"{width:.1}\" height=\"6\"/></svg>"
    )
}
