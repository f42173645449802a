// SPDX-License-Identifier: GPL-2.0

//! Pictures, as SVG: bars and lines, on linear or logarithmic axes. Large letters, for a page
//! shows them at half their width.

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

/// Groups of bars, side by side; each with the range that was measured.
pub struct Bars {
    pub title: String,
    /// What is measured, and its unit.
    pub y: String,
    /// Logarithmic, from this value on.
    pub log_from: Option<f64>,
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
    const WIDTH: u32 = 1000;
    const HEIGHT: u32 = 520;

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

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{}M", value / 1e6),
        v if v >= 1000.0 => format!("{}k", value / 1000.0),
        v if v >= 10.0 || v == 0.0 => format!("{value:.0}"),
        _ => format!("{}", (value * 1000.0).round() / 1000.0),
    }
}

impl Bars {
    fn y_of(&self, value: f64) -> f64 {
        match self.log_from {
            Some(from) => (value.max(from) / from).log10(),
            None => value,
        }
    }

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
        let (low, high) = match self.log_from {
            Some(_) => (0.0, self.y_of(top) * 1.3),
            None => (bottom * 1.1, top * 1.3),
        };
        let groups = self.groups.len();
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 28))
            .margin(14)
            .x_label_area_size(40)
            .y_label_area_size(96)
            .build_cartesian_2d(0.0..groups as f64, low..high)
            .map_err(failed)?;
        let names = self.groups.clone();
        let from = self.log_from;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .y_desc(&self.y)
            .x_labels(0)
            .y_labels(labels(self.log_from.is_some(), high - low))
            .y_label_formatter(&move |y| match from {
                Some(from) => number((from * 10f64.powf(*y)).round()),
                None => number(*y),
            })
            .label_style((FONT, 20))
            .axis_desc_style((FONT, 22))
            .draw()
            .map_err(failed)?;

        let wide = 0.84 / self.series.len().max(1) as f64;
        for (nth, (name, values)) in self.series.iter().enumerate() {
            let colour = COLOURS[nth % COLOURS.len()];
            let bars = (values.iter().enumerate())
                .filter_map(|(group, value)| value.map(|value| (group, value)))
                .map(|(group, value)| {
                    let left = group as f64 + 0.08 + nth as f64 * wide;
                    Rectangle::new(
                        [
                            (left, self.y_of(0.0)),
                            (left + wide * 0.9, self.y_of(value.median)),
                        ],
                        colour.filled(),
                    )
                });
            chart
                .draw_series(bars)
                .map_err(failed)?
                .label(name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 7), (x + 18, y + 7)], colour.filled())
                });
            let ranges = (values.iter().enumerate())
                .filter_map(|(group, value)| value.map(|value| (group, value)))
                .map(|(group, value)| {
                    let middle = group as f64 + 0.08 + (nth as f64 + 0.45) * wide;
                    PathElement::new(
                        [
                            (middle, self.y_of(value.low)),
                            (middle, self.y_of(value.high)),
                        ],
                        RGBColor(60, 60, 60).stroke_width(2),
                    )
                });
            chart.draw_series(ranges).map_err(failed)?;
        }
        let places = (names.iter().enumerate()).map(|(n, name)| (n as f64 + 0.5, name.clone()));
        name_places(area, &chart, places, low)?;
        if let Some((name, value)) = &self.goal {
            let y = self.y_of(*value);
            chart
                .draw_series([DashedPathElement::new(
                    [(0.0, y), (groups as f64, y)],
                    8,
                    5,
                    BLACK.stroke_width(2),
                )])
                .map_err(failed)?
                .label(name)
                .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK.stroke_width(2)));
        }
        legend(&mut chart)
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
        if !self.log_y {
            low = low.min(0.0);
        }
        // The legend stands above the lines.
        let room = ((high - low) * 0.07).max(0.02);
        high += 5.0 * room;
        if self.log_y {
            low -= room;
        }
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 28))
            .margin(14)
            .x_label_area_size(64)
            .y_label_area_size(96)
            .build_cartesian_2d(left..right, low..high)
            .map_err(failed)?;
        let shown = |log: bool, value: f64| match log {
            true => {
                let value = 10f64.powf(value);
                let digits = 10f64.powf(value.log10().floor() - 1.0);
                number((value / digits).round() * digits)
            }
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
        for (nth, (name, points)) in points.iter().enumerate() {
            let colour = COLOURS[nth % COLOURS.len()];
            chart
                .draw_series(LineSeries::new(
                    points.iter().copied(),
                    colour.stroke_width(3),
                ))
                .map_err(failed)?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(4))
                });
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
        legend(&mut chart)
    }
}

/// How many labels an axis of this length has: for decades one each.
fn labels(log: bool, length: f64) -> usize {
    match log {
        true if length >= 2.0 => length as usize + 1,
        _ => 6,
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

fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
) -> anyhow::Result<()>
where
    X: plotters::coord::ranged1d::Ranged<ValueType = f64>,
    Y: plotters::coord::ranged1d::Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(160, 160, 160))
        .label_font((FONT, 20))
        .draw()
        .map_err(failed)
}
