//! The picture of a profile as SVG: the dirty rate over time, and the predicted freeze against the bandwidth.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::report::ProfileReport;
use super::text::bandwidth;

const SIZE: (u32, u32) = (900, 760);
const FONT: &str = "sans-serif";
/// Distinguishable in print and for the colour-blind (Okabe and Ito).
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

/// One line of the lower chart: points of bandwidth (bits per second) and freeze (milliseconds).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    /// What it shows.
    pub(crate) label: &'static str,
    /// Bandwidth and predicted freeze.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A picture could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("drawing the picture: {0}")]
pub(crate) struct PictureError(String);

impl PictureError {
    fn of<E: std::error::Error + Send + Sync>(e: DrawingAreaErrorKind<E>) -> Self {
        PictureError(e.to_string())
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws a profile.
pub(crate) fn draw(report: &ProfileReport, lines: &[Line]) -> Result<String, PictureError> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(PictureError::of)?;
        let title = format!("ulpm profile of pid {} ({})", report.pid, report.name);
        let root = root.titled(&title, (FONT, 22)).map_err(PictureError::of)?;
        let (upper, lower) = root.split_vertically(330);
        over_time(&upper, report)?;
        against_bandwidth(&lower, lines)?;
        root.present().map_err(PictureError::of)?;
    }
    Ok(svg)
}

fn over_time(area: &Area<'_>, report: &ProfileReport) -> Result<(), PictureError> {
    let steps = &report.dirty.over_time;
    let end = steps.last().map_or(1.0, |s| (s.at_ms + s.ms) / 1e3);
    let top = (report.dirty.max_pages_per_s * 1.1).max(10.0);
    let mut chart = ChartBuilder::on(area)
        .caption("pages dirtied per second", (FONT, 16))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..end, 0.0..top)
        .map_err(PictureError::of)?;
    chart
        .configure_mesh()
        .x_desc("time in s")
        .y_desc("pages per second")
        .y_label_formatter(&|y| thousands(*y))
        .light_line_style(WHITE)
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .draw()
        .map_err(PictureError::of)?;
    // steps, as they were measured
    let corners =
        steps.iter().flat_map(|s| [(s.at_ms / 1e3, s.pages_per_s), ((s.at_ms + s.ms) / 1e3, s.pages_per_s)]);
    chart.draw_series(LineSeries::new(corners, COLOURS[0].stroke_width(2))).map_err(PictureError::of)?;
    let mean = report.dirty.mean_pages_per_s;
    chart
        .draw_series(LineSeries::new([(0.0, mean), (end, mean)], BLACK.mix(0.5)))
        .map_err(PictureError::of)?
        .label(format!("mean {}", thousands(mean)))
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], BLACK.mix(0.5)));
    legend(&mut chart)
}

fn against_bandwidth(area: &Area<'_>, lines: &[Line]) -> Result<(), PictureError> {
    let points = || lines.iter().flat_map(|l| &l.points);
    let least = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::INFINITY, f64::min);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
    if points().next().is_none() {
        return Ok(());
    }
    let across = least(|p| p.0)..most(|p| p.0);
    let up = (least(|p| p.1) / 1.5).max(0.1)..most(|p| p.1) * 1.5;
    let mut chart = ChartBuilder::on(area)
        .caption("predicted freeze against bandwidth", (FONT, 16))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(across.log_scale(), up.log_scale())
        .map_err(PictureError::of)?;
    chart
        .configure_mesh()
        .x_desc("bandwidth")
        .y_desc("freeze in ms")
        .x_label_formatter(&|x| bandwidth(x.round() as u64))
        .y_label_formatter(&|y| format!("{y}"))
        .light_line_style(WHITE)
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .draw()
        .map_err(PictureError::of)?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle().copied()) {
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))
            .map_err(PictureError::of)?
            .label(line.label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    legend(&mut chart)
}

fn legend<'a, 'svg: 'a, C: CoordTranslate + 'a>(
    chart: &mut ChartContext<'a, SVGBackend<'svg>, C>,
) -> Result<(), PictureError> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 13))
        .draw()
        .map_err(PictureError::of)
}

/// `12 345` rather than `12345`.
fn thousands(n: f64) -> String {
    let digits = format!("{:.0}", n.abs());
    let grouped: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|c| std::str::from_utf8(c).ok()).collect();
    grouped.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::report::tests::sample;

    #[test]
    fn both_charts_are_drawn_and_names_are_escaped() {
        let points = (0..20).map(|n| (1e8 * f64::from(n + 1), 100.0 / f64::from(n + 1))).collect();
        let svg = draw(&sample(), &[Line { label: "--max-freeze 20ms", points }]).unwrap();
        assert!(svg.contains("(a&lt;b&amp;c)"), "{svg}");
        for word in
            ["pages dirtied per second", "predicted freeze", "1 Gbit/s", "--max-freeze 20ms", "mean 1 500"]
        {
            assert!(svg.contains(word), "{word}: {svg}");
        }
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn nothing_to_draw_is_no_failure() {
        let mut empty = sample();
        empty.dirty.over_time.clear();
        empty.dirty.max_pages_per_s = 0.0;
        assert!(draw(&empty, &[]).unwrap().contains("<svg"));
    }

    #[test]
    fn numbers_are_grouped() {
        let all = [0.0, 999.0, 1000.0, 1_234_567.8].map(thousands);
        assert_eq!(all, ["0", "999", "1 000", "1 234 568"]);
    }
}
