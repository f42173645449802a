// SPDX-License-Identifier: GPL-2.0

//! Pictures, as SVG: bars on a linear axis, and lines on linear or logarithmic ones. The letters
//! are large, because a page shows pictures at half their width.

use std::path::Path;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::data::Summary;

/// Okabe and Ito's colours, which people with any colour vision can tell apart.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(148, 140, 40),
];
const FONT: &str = "sans-serif";
const WIDTH: u32 = 1000;
const HEIGHT: u32 = 520;
/// How high the legend is, above the axes.
const LEGEND: u32 = 40;
/// How wide the labels of the vertical axis are.
const AXIS: u32 = 96;

/// Groups of bars, side by side; each with the range that was measured.
pub struct Bars {
    pub title: String,
    /// What is measured, and its unit.
    pub y: String,
    pub groups: Vec<String>,
    pub series: Vec<(String, Vec<Option<Summary>>)>,
    /// A goal to be seen beside the bars.
    pub goal: Option<(String, f64)>,
}

pub struct Lines {
    pub title: String,
    pub x: String,
    pub y: String,
    pub log_x: bool,
    pub log_y: bool,
    pub series: Vec<(String, Vec<(f64, f64)>)>,
}

pub enum Panel {
    Bars(Bars),
    Lines(Lines),
}

/// One picture, its panels one above the other.
pub fn draw(file: &Path, panels: &[Panel]) -> anyhow::Result<()> {
    let count = panels.len().max(1);
    let root = SVGBackend::new(file, (WIDTH, HEIGHT * count as u32)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    for (area, panel) in root.split_evenly((count, 1)).iter().zip(panels) {
        match panel {
            Panel::Bars(bars) => bars.draw(area)?,
            Panel::Lines(lines) => lines.draw(area)?,
        }
    }
    root.present().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The colour of each series, filled.
fn colours() -> impl Iterator<Item = ShapeStyle> {
    COLOURS.iter().map(|colour| colour.filled())
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{}M", value / 1e6),
        v if v >= 1000.0 => format!("{}k", value / 1000.0),
        v if v >= 10.0 || v == 0.0 => format!("{value:.0}"),
        _ => format!("{}", (value * 1000.0).round() / 1000.0),
    }
}

impl Bars {
    fn draw(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let values = || {
            self.series
                .iter()
                .flat_map(|(_, values)| values.iter().flatten())
        };
        let goal = self.goal.iter().map(|(_, value)| *value);
        let top = values()
            .map(|v| v.high)
            .chain(goal.clone())
            .fold(0.0f64, f64::max);
        let bottom = values().map(|v| v.low).chain(goal).fold(0.0f64, f64::min);
        let top = if top <= bottom { bottom + 1.0 } else { top };
        let (low, high) = (bottom * 1.1, top * 1.1);
        let groups = self.groups.len();
        let names = self.series.iter().map(|(name, _)| name.as_str());
        let goal = (self.goal.iter()).map(|(name, _)| (name.as_str(), BLACK.stroke_width(2)));
        let area = &head(area, &self.title, names.zip(colours()).chain(goal))?;
        let mut chart = ChartBuilder::on(area)
            .margin(14)
            .margin_right(30)
            .x_label_area_size(40)
            .y_label_area_size(AXIS)
            .build_cartesian_2d(0.0..groups as f64, low..high)
            .map_err(failed)?;
        let names = self.groups.clone();
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .y_desc(&self.y)
            .x_labels(0)
            .y_labels(LABELS)
            .y_label_formatter(&|y| number(*y))
            .label_style((FONT, 20))
            .axis_desc_style((FONT, 22))
            .draw()
            .map_err(failed)?;

        let wide = 0.84 / self.series.len().max(1) as f64;
        for (nth, (_, values)) in self.series.iter().enumerate() {
            let colour = COLOURS[nth % COLOURS.len()];
            let bars = (values.iter().enumerate())
                .filter_map(|(group, value)| value.map(|value| (group, value)))
                .map(|(group, value)| {
                    let left = group as f64 + 0.08 + nth as f64 * wide;
                    Rectangle::new(
                        [(left, 0.0), (left + wide * 0.9, value.median)],
                        colour.filled(),
                    )
                });
            chart.draw_series(bars).map_err(failed)?;
            let ranges = (values.iter().enumerate())
                .filter_map(|(group, value)| value.map(|value| (group, value)))
                .map(|(group, value)| {
                    let middle = group as f64 + 0.08 + (nth as f64 + 0.45) * wide;
                    PathElement::new(
                        [(middle, value.low), (middle, value.high)],
                        RGBColor(60, 60, 60).stroke_width(2),
                    )
                });
            chart.draw_series(ranges).map_err(failed)?;
        }
        let places = (names.iter().enumerate()).map(|(n, name)| (n as f64 + 0.5, name.clone()));
        name_places(area, &chart, places, low)?;
        if let Some((_, value)) = &self.goal {
            chart
                .draw_series([DashedPathElement::new(
                    [(0.0, *value), (groups as f64, *value)],
                    8,
                    5,
                    BLACK.stroke_width(2),
                )])
                .map_err(failed)?;
        }
        Ok(())
    }
}

impl Lines {
    fn draw(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let place = |log: bool, value: f64| match log {
            true => value.max(1e-9).log10(),
            false => value,
        };
        let points: Vec<(String, Vec<(f64, f64)>)> = (self.series.iter())
            .map(|(name, points)| {
                let points = points.iter();
                let placed = points.map(|&(x, y)| (place(self.log_x, x), place(self.log_y, y)));
                (name.clone(), placed.collect())
            })
            .collect();
        let all = || points.iter().flat_map(|(_, points)| points);
        let least = |of: &dyn Fn(&(f64, f64)) -> f64| all().map(of).fold(f64::INFINITY, f64::min);
        let most =
            |of: &dyn Fn(&(f64, f64)) -> f64| all().map(of).fold(f64::NEG_INFINITY, f64::max);
        let (left, right) = (least(&|p| p.0), most(&|p| p.0));
        let (mut low, mut high) = (least(&|p| p.1), most(&|p| p.1));
        if self.log_y {
            (low, high) = (low.floor(), high.ceil());
        } else {
            low = low.min(0.0);
            high += (high - low) * 0.07;
        }
        let names = self.series.iter().map(|(name, _)| name.as_str());
        let area = &head(area, &self.title, names.zip(colours()))?;
        let mut chart = ChartBuilder::on(area)
            .margin(14)
            .margin_right(30)
            .x_label_area_size(64)
            .y_label_area_size(AXIS)
            .build_cartesian_2d(left..right, low..high)
            .map_err(failed)?;
        let shown = |log: bool, value: f64| match log {
            true => number((10f64.powf(value) * 1000.0).round() / 1000.0),
            false => number((value * 100.0).round() / 100.0),
        };
        // On a logarithmic axis the places that were measured are named, no others.
        let mut measured: Vec<f64> = all().map(|point| point.0).collect();
        measured.sort_by(f64::total_cmp);
        measured.dedup();
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_labels(if self.log_x { 0 } else { 8 })
            .y_labels(labels(self.log_y, high - low))
            .x_label_formatter(&|x| shown(self.log_x, *x))
            .y_label_formatter(&|y| shown(self.log_y, *y))
            .label_style((FONT, 20))
            .axis_desc_style((FONT, 22))
            .draw()
            .map_err(failed)?;
        if self.log_x {
            let places = measured.iter().map(|&x| (x, shown(true, x)));
            name_places(area, &chart, places, low)?;
        }
        for (nth, (_, points)) in points.iter().enumerate() {
            let colour = COLOURS[nth % COLOURS.len()];
            chart
                .draw_series(LineSeries::new(
                    points.iter().copied(),
                    colour.stroke_width(3),
                ))
                .map_err(failed)?;
            if points.len() <= 12 {
                chart
                    .draw_series(
                        points
                            .iter()
                            .map(|&point| Circle::new(point, 5, colour.filled())),
                    )
                    .map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// How many labels a vertical axis has.
const LABELS: usize = 6;

/// How many labels an axis of this length has: for decades one each.
fn labels(log: bool, length: f64) -> usize {
    match log {
        true => (length as usize + 1).max(2),
        false => LABELS,
    }
}

type Chart<'a> = ChartContext<
    'a,
    SVGBackend<'a>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

/// Writes names below the horizontal axis, which is at `low`.
fn name_places(
    area: &Area<'_>,
    chart: &Chart<'_>,
    places: impl Iterator<Item = (f64, String)>,
    low: f64,
) -> anyhow::Result<()> {
    use plotters::style::text_anchor::{HPos, Pos, VPos};

    let base = area.get_base_pixel();
    let style = (FONT, 22).into_font().color(&BLACK);
    for (place, name) in places {
        let (x, y) = chart.backend_coord(&(place, low));
        area.draw(&Text::new(
            name,
            (x - base.0, y - base.1 + 10),
            style.clone().pos(Pos::new(HPos::Center, VPos::Top)),
        ))
        .map_err(failed)?;
    }
    Ok(())
}

/// Writes the title and, below it, what the colours mean. Returns what is left for the chart.
fn head<'a, 'b>(
    area: &Area<'a>,
    title: &str,
    series: impl Iterator<Item = (&'b str, ShapeStyle)>,
) -> anyhow::Result<Area<'a>> {
    use plotters::style::text_anchor::{HPos, Pos, VPos};

    let area = area.titled(title, (FONT, 28)).map_err(failed)?;
    let style = (FONT, 22).into_font().color(&BLACK);
    let style = style.pos(Pos::new(HPos::Left, VPos::Center));
    let middle = LEGEND as i32 / 2;
    let mut left = AXIS as i32;
    for (name, colour) in series {
        let swatch = Rectangle::new([(left, middle - 7), (left + 18, middle + 7)], colour);
        area.draw(&swatch).map_err(failed)?;
        let text = Text::new(name, (left + 26, middle), style.clone());
        area.draw(&text).map_err(failed)?;
        let (width, _) = area.estimate_text_size(name, &style).map_err(failed)?;
        left += width as i32 + 56;
    }
    Ok(area.margin(LEGEND, 0, 0, 0))
}
