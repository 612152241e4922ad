//! Line plots with logarithmic axes.
//!
//! The axes are linear in the logarithm, so that ticks fall on powers and nowhere else.

use plotters::prelude::*;

use super::legend::{self, Entry, Sign};
use super::theme::{GRID, INK, PAPER, color, figure};
use crate::BenchError;

/// Width of a plot, and its height without the legend, pixels.
const SIZE: (u32, u32) = (860, 390);

/// A logarithmic axis.
pub struct Axis {
    /// What it shows.
    pub name: &'static str,
    /// What the ticks are powers of.
    pub base: f64,
    /// Writes the value at a tick.
    pub tick: fn(f64) -> String,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        value.log(self.base)
    }

    fn tick_text(&self, place: f64) -> String {
        // Ticks between powers would be no round values.
        if (place - place.round()).abs() > 1e-6 {
            return String::new();
        }
        (self.tick)(self.base.powf(place.round()))
    }
}

/// One line.
pub struct Line {
    /// Its name.
    pub name: &'static str,
    /// Number of its colour.
    pub color: usize,
    /// Whether its points are open: the second kind of a pair of lines.
    pub open: bool,
    /// Its points; those that are not above zero are left out.
    pub points: Vec<(f64, f64)>,
}

/// A line plot.
pub struct LinePlot {
    /// Its title.
    pub title: &'static str,
    /// The axis to the right.
    pub x: Axis,
    /// The axis upwards.
    pub y: Axis,
    /// The lines.
    pub lines: Vec<Line>,
    /// Points with a ring around them, and what the legend says of each.
    pub marks: Vec<(f64, f64, String)>,
}

impl LinePlot {
    /// Draws it; none if there is nothing to draw.
    pub fn svg(&self) -> Result<Option<String>, BenchError> {
        let points = || self.lines.iter().flat_map(|line| self.places(&line.points));
        let (Some(xs), Some(ys)) = (span(points().map(|p| p.0)), span(points().map(|p| p.1)))
        else {
            return Ok(None);
        };
        let mut svg = String::new();
        self.draw(&mut svg, widen(xs, 0.05), round_out(ys)).map_err(|error| BenchError::Plot {
            title: self.title.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Some(figure(self.title, &svg)))
    }

    fn places(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let visible = points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0);
        visible.map(|&(x, y)| (self.x.at(x), self.y.at(y))).collect()
    }

    fn draw(
        &self,
        svg: &mut String,
        xs: (f64, f64),
        ys: (f64, f64),
    ) -> Result<(), Box<dyn std::error::Error>> {
        let names = self.names();
        let head = legend::height(&names);
        let root = SVGBackend::with_string(svg, (SIZE.0, SIZE.1 + head as u32)).into_drawing_area();
        legend::draw(&root, &names)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(14)
            .margin_top(14 + head)
            .margin_right(28)
            .x_label_area_size(48)
            .y_label_area_size(86)
            .build_cartesian_2d(xs.0..xs.1, ys.0..ys.1)?;
        let font = legend::font();
        chart
            .configure_mesh()
            .x_labels(whole_numbers(xs))
            .y_labels(whole_numbers(ys))
            .max_light_lines(0)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc(self.x.name)
            .y_desc(self.y.name)
            .axis_desc_style(font.clone())
            .label_style(font.clone())
            .x_label_formatter(&|place| self.x.tick_text(*place))
            .y_label_formatter(&|place| self.y.tick_text(*place))
            .draw()?;
        for line in &self.lines {
            let color = color(line.color);
            let places = self.places(&line.points);
            let inside = if line.open { PAPER } else { color };
            chart.draw_series(LineSeries::new(places.clone(), color.stroke_width(2)))?;
            chart
                .draw_series(places.iter().map(|&place| Circle::new(place, 4, inside.filled())))?;
            chart.draw_series(
                places.iter().map(|&place| Circle::new(place, 4, color.stroke_width(2))),
            )?;
        }
        for (x, y, _) in &self.marks {
            let place = (self.x.at(*x), self.y.at(*y));
            chart.draw_series([Circle::new(place, 7, INK.stroke_width(2))])?;
        }
        root.present()?;
        Ok(())
    }

    /// The lines that have points, and the marks, for the legend.
    fn names(&self) -> Vec<Entry> {
        let drawn = self.lines.iter().filter(|line| !self.places(&line.points).is_empty());
        let entry = |line: &Line| Entry {
            name: line.name.to_owned(),
            color: color(line.color),
            sign: if line.open { Sign::Open } else { Sign::Filled },
        };
        let mark = |mark: &(f64, f64, String)| Entry {
            name: mark.2.clone(),
            color: INK,
            sign: Sign::Ring,
        };
        drawn.map(entry).chain(self.marks.iter().map(mark)).collect()
    }
}

/// The smallest and the largest of `values`.
fn span(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |span, value| {
        let (low, high) = span.unwrap_or((value, value));
        Some((f64::min(low, value), f64::max(high, value)))
    })
}

/// The same with a margin that is a part of it.
fn widen((low, high): (f64, f64), part: f64) -> (f64, f64) {
    let margin = ((high - low) * part).max(0.1);
    (low - margin, high + margin)
}

/// Out to the next powers.
fn round_out((low, high): (f64, f64)) -> (f64, f64) {
    ((low - 0.05).floor(), (high + 0.05).ceil())
}

/// How many whole numbers lie between.
fn whole_numbers((low, high): (f64, f64)) -> usize {
    (high.floor() - low.ceil()).max(0.0) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> LinePlot {
        let axis = |name| Axis { name, base: 10.0, tick: |value| format!("{value} u") };
        let line = |name, points| Line { name, color: 0, open: false, points };
        LinePlot {
            title: "A plot",
            x: axis("across"),
            y: axis("up"),
            lines: vec![line("a line", points), line("no line", vec![])],
            marks: vec![(10.0, 10.0, "here".to_owned())],
        }
    }

    #[test]
    fn a_plot_has_its_words_and_round_ticks() {
        let svg = plot(vec![(1.0, 3.0), (0.0, 5.0), (1000.0, 4000.0)]).svg().unwrap().unwrap();
        for word in ["A plot", "across", "up", "a line", "here", "100 u", "1000 u"] {
            assert!(svg.contains(word), "{word} is missing");
        }
        assert!(!svg.contains("NaN") && !svg.contains("no line"));
    }

    #[test]
    fn one_point_and_no_point_can_be_drawn() {
        assert!(plot(vec![(5.0, 5.0)]).svg().unwrap().is_some());
        assert!(plot(vec![(0.0, 5.0)]).svg().unwrap().is_none());
    }
}
