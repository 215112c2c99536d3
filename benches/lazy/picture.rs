//! What redis's clients get over time, one chart for each way to move it, as SVG.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::redis::{BUCKET, Moved};

const SIZE: (u32, u32) = (900, 780);
const FONT: &str = "sans-serif";
/// Distinguishable in print and for the colour-blind (Okabe and Ito).
const LINE: RGBColor = RGBColor(0, 114, 178);
const RUNS: RGBColor = RGBColor(213, 94, 0);
const WHOLE: RGBColor = RGBColor(0, 158, 115);

/// All charts have the same axes.
pub(crate) fn draw(all: &[Moved]) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let root = root.titled("redis-server with 500 MiB, moved under load over 1 Gbit/s", (FONT, 22))?;
        let end =
            all.iter().map(|m| m.answers.len() as f64 * BUCKET.as_secs_f64() - m.begun).fold(1.0, f64::max);
        let top = all.iter().flat_map(|m| &m.answers).copied().fold(10.0, f64::max) * 1.25;
        for (area, moved) in root.split_evenly((all.len().max(1), 1)).iter().zip(all) {
            chart(area, moved, end, top)?;
        }
        root.present()?;
    }
    Ok(svg)
}

fn chart(area: &DrawingArea<SVGBackend<'_>, Shift>, moved: &Moved, end: f64, top: f64) -> Result<()> {
    let caption = format!(
        "{}: frozen {:.0} ms, runs there after {:.1} s, whole after {:.1} s",
        moved.way,
        moved.freeze_ms,
        moved.resumed - moved.begun,
        moved.whole - moved.begun
    );
    let mut chart = ChartBuilder::on(area)
        .caption(caption, (FONT, 16))
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(-moved.begun..end, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("seconds since ulpm live was started")
        .y_desc("answers per second")
        .y_label_formatter(&|y| format!("{y:.0}"))
        .light_line_style(WHITE)
        .label_style((FONT, 12))
        .axis_desc_style((FONT, 13))
        .draw()?;
    let step = BUCKET.as_secs_f64();
    let corners = moved.answers.iter().enumerate().flat_map(|(i, n)| {
        let at = i as f64 * step - moved.begun;
        [(at, *n), (at + step, *n)]
    });
    chart.draw_series(LineSeries::new(corners, LINE.stroke_width(2)))?;
    let marks = [("starts", 0.0, BLACK), ("runs there", moved.resumed - moved.begun, RUNS)];
    let whole = (moved.whole > moved.resumed).then_some(("whole", moved.whole - moved.begun, WHOLE));
    for (label, at, colour) in marks.into_iter().chain(whole) {
        chart
            .draw_series(LineSeries::new([(at, 0.0), (at, top)], colour.stroke_width(1)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 12))
        .draw()?;
    Ok(())
}
