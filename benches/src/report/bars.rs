//! Bars that lie on their sides, made of parts.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::lines::{COLORS, INK};
use crate::BenchError;

const WIDTH: u32 = 860;
const BAR: u32 = 46;
const GRID: RGBColor = RGBColor(225, 228, 232);

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
        Ok(Some(svg))
    }

    fn draw(&self, svg: &mut String, longest: f64) -> Result<(), Box<dyn std::error::Error>> {
        let count = self.bars.len();
        // The title stands there too.
        let head = if self.legend { 58 } else { 28 };
        let size = (WIDTH, BAR * count as u32 + 110 + head);
        let root = SVGBackend::with_string(svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let font = ("sans-serif", 16).into_font().color(&INK);
        if self.legend {
            self.draw_legend(&root, &font)?;
        }
        let mut chart = ChartBuilder::on(&root)
            .margin(14)
            .margin_top(14 + head)
            .margin_right(28)
            .x_label_area_size(48)
            .y_label_area_size(120)
            .build_cartesian_2d(0.0..longest * 1.14, 0.0..count as f64)?;
        let title = ("sans-serif", 20).into_font().color(&INK).pos(ABOVE);
        root.draw(&Text::new(self.title, (WIDTH as i32 / 2, 10), title))?;
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
                let color = if self.legend { COLORS[index % COLORS.len()] } else { COLORS[0] };
                let corners = [(from, bottom + 0.2), (to, bottom + 0.8)];
                chart.draw_series([Rectangle::new(corners, color.filled())])?;
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

    /// The parts that any bar has, by colour.
    fn draw_legend(
        &self,
        root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        font: &TextStyle<'_>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        const COLUMNS: usize = 5;
        const STEP: i32 = 150;
        let mut shown = 0;
        let names = self.bars.first().map_or(&[][..], |bar| &bar.1);
        for (index, (name, _)) in names.iter().enumerate() {
            let used =
                |bar: &(String, Vec<(String, f64)>)| bar.1.get(index).is_some_and(|p| p.1 > 0.0);
            if !self.bars.iter().any(used) {
                continue;
            }
            let (column, line) = (shown % COLUMNS, shown / COLUMNS);
            let (x, y) = (90 + STEP * column as i32, 44 + 22 * line as i32);
            let color = COLORS[index % COLORS.len()];
            root.draw(&Rectangle::new([(x, y - 6), (x + 14, y + 6)], color.filled()))?;
            root.draw(&Text::new(name.clone(), (x + 20, y), font.clone().pos(AT_LEFT)))?;
            shown += 1;
        }
        Ok(())
    }
}

const AT_LEFT: Pos = Pos { h_pos: HPos::Left, v_pos: VPos::Center };
const AT_RIGHT: Pos = Pos { h_pos: HPos::Right, v_pos: VPos::Center };
const ABOVE: Pos = Pos { h_pos: HPos::Center, v_pos: VPos::Top };

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
