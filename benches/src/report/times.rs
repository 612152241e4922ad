//! Plots of something over time: linear axes.

use plotters::prelude::*;

use super::legend::{self, Entry, Sign};
use super::theme::{GRID, INK, color, figure};
use crate::BenchError;

/// Width of a plot, and its height without the legend, pixels.
const SIZE: (u32, u32) = (860, 330);
/// Number of the colour of the span, of which a part shines through.
const SHADE: usize = 3;

/// One line over time.
pub struct TimeLine {
    /// Its name.
    pub name: String,
    /// Number of its colour.
    pub color: usize,
    /// Its points: seconds, and what was then.
    pub points: Vec<(f64, f64)>,
}

/// A plot over time.
pub struct TimePlot {
    /// Its title.
    pub title: String,
    /// What it shows.
    pub axis: &'static str,
    /// Writes the value at a tick.
    pub tick: fn(f64) -> String,
    /// The lines.
    pub lines: Vec<TimeLine>,
    /// From when to when something went on, seconds, and what.
    pub span: Option<(f64, f64, String)>,
}

impl TimePlot {
    /// Draws it; none if there is nothing to draw.
    pub fn svg(&self) -> Result<Option<String>, BenchError> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let span = self.span.iter().flat_map(|span| [span.0, span.1]);
        let times = || points().map(|point| point.0).chain(span.clone());
        let (first, last) =
            (times().fold(f64::INFINITY, f64::min), times().fold(f64::NEG_INFINITY, f64::max));
        let highest = points().map(|point| point.1).fold(0.0, f64::max);
        if points().next().is_none() || highest <= 0.0 || last <= first {
            return Ok(None);
        }
        let mut svg = String::new();
        self.draw(&mut svg, (first, last), highest).map_err(|error| BenchError::Plot {
            title: self.title.clone(),
            reason: error.to_string(),
        })?;
        Ok(Some(figure(&self.title, &svg)))
    }

    fn draw(
        &self,
        svg: &mut String,
        (first, last): (f64, f64),
        highest: f64,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let names = self.names();
        let head = legend::height(&names);
        let root = SVGBackend::with_string(svg, (SIZE.0, SIZE.1 + head as u32)).into_drawing_area();
        legend::draw(&root, &names)?;
        let top = highest * 1.05;
        let mut chart = ChartBuilder::on(&root)
            .margin(14)
            .margin_top(14 + head)
            .margin_right(28)
            .x_label_area_size(48)
            .y_label_area_size(86)
            .build_cartesian_2d(first..last, 0.0..top)?;
        let font = legend::font();
        chart
            .configure_mesh()
            .x_labels(8)
            .y_labels(6)
            .max_light_lines(0)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc("seconds since the save was asked for")
            .y_desc(self.axis)
            .axis_desc_style(font.clone())
            .label_style(font.clone())
            .x_label_formatter(&|seconds| super::units::short(*seconds))
            .y_label_formatter(&|value| (self.tick)(*value))
            .draw()?;
        if let Some((from, to, _)) = &self.span {
            let shade = color(SHADE).mix(0.25).filled();
            chart.draw_series([Rectangle::new([(*from, 0.0), (*to, top)], shade)])?;
        }
        for line in &self.lines {
            let stroke = color(line.color).stroke_width(2);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), stroke))?;
        }
        root.present()?;
        Ok(())
    }

    fn names(&self) -> Vec<Entry> {
        let lines = self.lines.iter().map(|line| Entry {
            name: line.name.clone(),
            color: color(line.color),
            sign: Sign::Plain,
        });
        let span = self.span.iter().map(|(_, _, name)| Entry {
            name: name.clone(),
            color: color(SHADE),
            sign: Sign::Box,
        });
        lines.chain(span).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_its_words_and_its_span() {
        let line =
            TimeLine { name: "a line".into(), color: 0, points: vec![(-1.0, 5.0), (2.0, 7.0)] };
        let plot = TimePlot {
            title: "A plot".into(),
            axis: "up",
            tick: |value| format!("{value:.0} u"),
            lines: vec![line],
            span: Some((0.0, 1.5, "a save".into())),
        };
        let svg = plot.svg().unwrap().unwrap();
        for word in ["A plot", "up", "a line", "a save", "seconds since", "2 u", "-0.5"] {
            assert!(svg.contains(word), "{word} is missing");
        }
        assert!(!svg.contains("NaN"));
        assert!(TimePlot { lines: vec![], ..plot }.svg().unwrap().is_none());
    }
}
