//! Bars that lie on their sides, made of parts.

use plotters::prelude::*;

use super::legend::{self, AT_LEFT, AT_RIGHT, Entry, Sign};
use super::theme::{GRID, INK, PAPER, color, figure};
use crate::BenchError;

const WIDTH: u32 = 860;
const BAR: u32 = 40;

/// A plot of bars.
pub struct BarPlot {
    /// Its title.
    pub title: &'static str,
    /// What the length of a bar shows.
    pub axis: &'static str,
    /// Writes a length at a tick.
    pub tick: fn(f64) -> String,
    /// Name of each bar, and its parts: name and length, in the same order in each.
    pub bars: Vec<(String, Vec<(String, f64)>)>,
    /// Whether each part has a name, in a legend.
    pub legend: bool,
}

impl BarPlot {
    /// Draws it; none if there is nothing to draw.
    pub fn svg(&self) -> Result<Option<String>, BenchError> {
        let longest = self.bars.iter().map(|bar| length(&bar.1)).fold(0.0, f64::max);
        if longest <= 0.0 {
            return Ok(None);
        }
        let mut svg = String::new();
        self.draw(&mut svg, longest).map_err(|error| BenchError::Plot {
            title: self.title.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Some(figure(self.title, &svg)))
    }

    fn draw(&self, svg: &mut String, longest: f64) -> Result<(), Box<dyn std::error::Error>> {
        let count = self.bars.len();
        let names = self.names();
        let head = legend::height(&names);
        let size = (WIDTH, BAR * count as u32 + 90 + head as u32);
        let root = SVGBackend::with_string(svg, size).into_drawing_area();
        legend::draw(&root, &names)?;
        let font = legend::font();
        let mut chart = ChartBuilder::on(&root)
            .margin(14)
            .margin_top(14 + head)
            .margin_right(28)
            .x_label_area_size(48)
            .y_label_area_size(self.names_width())
            .build_cartesian_2d(0.0..longest * 1.14, 0.0..count as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .x_labels(7)
            .max_light_lines(0)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc(self.axis)
            .axis_desc_style(font.clone())
            .label_style(font.clone())
            .x_label_formatter(&|value| (self.tick)(*value))
            .draw()?;
        for (row, (name, parts)) in self.bars.iter().enumerate() {
            // The first bar lies on top.
            let bottom = (count - 1 - row) as f64;
            let mut from = 0.0;
            for (index, (_, part)) in parts.iter().enumerate() {
                let to = from + part.max(0.0);
                let color = if self.legend { color(index) } else { color(0) };
                let corners = [(from, bottom + 0.2), (to, bottom + 0.8)];
                chart.draw_series([Rectangle::new(corners, color.filled())])?;
                // So that neighbours are told apart without their colours.
                chart.draw_series([Rectangle::new(corners, PAPER.stroke_width(1))])?;
                from = to;
            }
            let (x, y) = chart.backend_coord(&(0.0, bottom + 0.5));
            root.draw(&Text::new(name.clone(), (x - 10, y), font.clone().pos(AT_RIGHT)))?;
            let (x, y) = chart.backend_coord(&(from, bottom + 0.5));
            root.draw(&Text::new((self.tick)(from), (x + 8, y), font.clone().pos(AT_LEFT)))?;
        }
        root.present()?;
        Ok(())
    }

    /// How wide the names of the bars are, pixels.
    fn names_width(&self) -> u32 {
        let longest = self.bars.iter().map(|bar| bar.0.chars().count()).max();
        (longest.unwrap_or_default() as u32 * 8 + 16).max(110)
    }

    /// The parts that any bar has, for the legend.
    fn names(&self) -> Vec<Entry> {
        let names = self.bars.first().filter(|_| self.legend).map_or(&[][..], |bar| &bar.1);
        let used = |index: usize| {
            self.bars.iter().any(|bar| bar.1.get(index).is_some_and(|part| part.1 > 0.0))
        };
        let names = names.iter().enumerate().filter(|(index, _)| used(*index));
        let entry = |(index, (name, _)): (usize, &(String, f64))| Entry {
            name: name.clone(),
            color: color(index),
            sign: Sign::Box,
        };
        names.map(entry).collect()
    }
}

fn length(parts: &[(String, f64)]) -> f64 {
    parts.iter().map(|part| part.1.max(0.0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_names_and_a_legend_of_what_they_have() {
        let parts = |a: f64, b: f64| {
            vec![("one".to_owned(), a), ("none".to_owned(), 0.0), ("two".to_owned(), b)]
        };
        let plot = BarPlot {
            title: "Bars",
            axis: "length",
            tick: |value| format!("{value:.0} u"),
            bars: vec![
                ("first".to_owned(), parts(1.0, 2.0)),
                ("second".to_owned(), parts(5.0, -1.0)),
            ],
            legend: true,
        };
        let svg = plot.svg().unwrap().unwrap();
        for word in ["Bars", "length", "first", "second", "one", "two", "3 u", "5 u"] {
            assert!(svg.contains(word), "{word} is missing");
        }
        assert!(!svg.contains(">none") && !svg.contains("\nnone"));
        assert!(BarPlot { bars: vec![], ..plot }.svg().unwrap().is_none());
    }
}
