//! Line plots with logarithmic axes.
//!
//! The axes are linear in the logarithm, so that ticks fall on powers and nowhere else.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::BenchError;

/// Sizes of a plot, pixels.
const SIZE: (u32, u32) = (860, 430);
/// Blue, vermilion, green, orange, purple, sky: told apart by people who do not see all
/// colours (Okabe and Ito).
pub const COLORS: [RGBColor; 9] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(170, 140, 60),
    RGBColor(60, 60, 140),
];
pub const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(225, 228, 232);

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
    /// Points with a word to them.
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
        Ok(Some(svg))
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
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(14)
            .margin_right(28)
            .caption(self.title, ("sans-serif", 20).into_font().color(&INK))
            .x_label_area_size(48)
            .y_label_area_size(86)
            .build_cartesian_2d(xs.0..xs.1, ys.0..ys.1)?;
        let font = ("sans-serif", 16).into_font().color(&INK);
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
            let color = COLORS[line.color % COLORS.len()];
            let places = self.places(&line.points);
            let inside = if line.open { WHITE } else { color };
            chart
                .draw_series(LineSeries::new(places.clone(), color.stroke_width(2)))?
                .label(line.name)
                .legend(move |(x, y)| {
                    EmptyElement::at((x, y))
                        + PathElement::new([(0, 0), (22, 0)], color.stroke_width(2))
                        + Circle::new((11, 0), 4, inside.filled())
                        + Circle::new((11, 0), 4, color.stroke_width(2))
                });
            chart
                .draw_series(places.iter().map(|&place| Circle::new(place, 4, inside.filled())))?;
            chart.draw_series(
                places.iter().map(|&place| Circle::new(place, 4, color.stroke_width(2))),
            )?;
        }
        // Words of neighbours go to opposite sides.
        let sides = [
            (Pos::new(HPos::Left, VPos::Top), (8, 10)),
            (Pos::new(HPos::Right, VPos::Bottom), (-8, -12)),
        ];
        for ((x, y, word), (anchor, offset)) in self.marks.iter().zip(sides.into_iter().cycle()) {
            let place = (self.x.at(*x), self.y.at(*y));
            chart.draw_series([EmptyElement::at(place)
                + Circle::new((0, 0), 7, INK.stroke_width(2))
                + Text::new(word.clone(), offset, font.clone().pos(anchor))])?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .margin(12)
            .legend_area_size(30)
            .label_font(font)
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .draw()?;
        root.present()?;
        Ok(())
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

/// Out to the next half powers, with room for the legend above.
fn round_out((low, high): (f64, f64)) -> (f64, f64) {
    ((low - 0.15).floor(), high.ceil() + 0.6)
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
        let line = Line { name: "a line", color: 0, open: false, points };
        LinePlot {
            title: "A plot",
            x: axis("across"),
            y: axis("up"),
            lines: vec![line],
            marks: vec![(10.0, 10.0, "here".to_owned())],
        }
    }

    #[test]
    fn a_plot_has_its_words_and_round_ticks() {
        let svg = plot(vec![(1.0, 3.0), (0.0, 5.0), (1000.0, 4000.0)]).svg().unwrap().unwrap();
        for word in ["A plot", "across", "up", "a line", "here", "100 u", "1000 u"] {
            assert!(svg.contains(word), "{word} is missing");
        }
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn one_point_and_no_point_can_be_drawn() {
        assert!(plot(vec![(5.0, 5.0)]).svg().unwrap().is_some());
        assert!(plot(vec![(0.0, 5.0)]).svg().unwrap().is_none());
    }
}
