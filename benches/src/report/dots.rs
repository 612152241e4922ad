//! Dots in rows: how much the readings of one thing differ.

use plotters::prelude::*;

use super::legend::{self, AT_RIGHT};
use super::theme::{GRID, INK, color, figure};
use super::units::short;
use crate::BenchError;
use crate::stats::median;

const WIDTH: u32 = 860;
const ROW: u32 = 44;
/// Where all dots lie within this factor of their median, the axis is in per cent.
const CLOSE: f64 = 2.0;

/// A plot of dots, each row against its own median.
pub struct DotPlot {
    /// Its title.
    pub title: &'static str,
    /// Name of each row, and its values, all above zero.
    pub rows: Vec<(String, Vec<f64>)>,
}

impl DotPlot {
    /// Draws it; none if there is nothing to draw.
    pub fn svg(&self) -> Result<Option<String>, BenchError> {
        let rows: Vec<(&str, Vec<f64>)> =
            self.rows.iter().map(|(name, values)| (name.as_str(), ratios(values))).collect();
        let all = || rows.iter().flat_map(|row| row.1.iter().copied());
        let widest = all().map(|ratio| ratio.max(1.0 / ratio)).fold(1.0, f64::max);
        if all().next().is_none() {
            return Ok(None);
        }
        let mut svg = String::new();
        draw(&mut svg, &rows, widest).map_err(|error| BenchError::Plot {
            title: self.title.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Some(figure(self.title, &svg)))
    }
}

/// `values` as parts of their median.
fn ratios(values: &[f64]) -> Vec<f64> {
    let values: Vec<f64> = values.iter().copied().filter(|value| *value > 0.0).collect();
    let middle = median(values.iter().copied());
    values.iter().map(|value| value / middle).collect()
}

/// Where a ratio lies on the axis.
type Place = fn(f64) -> f64;
/// What stands at a place of it.
type Tick = fn(f64) -> String;

/// The axis of ratios of which the widest is this far from the median.
fn axis(widest: f64) -> (Place, Tick) {
    if widest < CLOSE {
        let tick = |place: f64| match (place * 100.0).round() {
            0.0 => "median".to_owned(),
            part => format!("{part:+} %"),
        };
        return (|ratio| ratio - 1.0, tick);
    }
    let tick = |place: f64| match place {
        0.0 => "median".to_owned(),
        place if place < 0.0 => format!("1/{}", short((-place).exp2())),
        place => format!("{}x", short(place.exp2())),
    };
    (f64::log2, tick)
}

fn draw(
    svg: &mut String,
    rows: &[(&str, Vec<f64>)],
    widest: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let (at, tick) = axis(widest);
    let places = || rows.iter().flat_map(|row| row.1.iter().map(|&ratio| at(ratio)));
    let (low, high) = places()
        .fold((0.0, 0.0), |(low, high): (f64, f64), place| (low.min(place), high.max(place)));
    let (low, high) = if widest < CLOSE {
        let margin = ((high - low) * 0.1).max(0.01);
        (low - margin, high + margin)
    } else {
        ((low - 0.1).floor(), (high + 0.1).ceil())
    };
    let size = (WIDTH, ROW * rows.len() as u32 + 58);
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(14)
        .margin_right(34)
        .x_label_area_size(30)
        .y_label_area_size(320)
        .build_cartesian_2d(low..high, 0.0..rows.len() as f64)?;
    let font = legend::font();
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_labels(8)
        .max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(font.clone())
        .x_label_formatter(&|place| tick(*place))
        .draw()?;
    for (row, (name, ratios)) in rows.iter().enumerate() {
        // The first row lies on top.
        let y = (rows.len() - 1 - row) as f64 + 0.5;
        let (left, middle) = chart.backend_coord(&(low, y));
        root.draw(&Text::new((*name).to_owned(), (left - 10, middle), font.clone().pos(AT_RIGHT)))?;
        let dots =
            ratios.iter().map(|&ratio| Circle::new((at(ratio), y), 5, color(0).mix(0.6).filled()));
        chart.draw_series(dots)?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(values: &[f64]) -> Option<String> {
        let rows = vec![("a thing".to_owned(), values.to_vec())];
        DotPlot { title: "Dots", rows }.svg().unwrap()
    }

    #[test]
    fn close_dots_are_in_per_cent_and_others_in_times() {
        let close = plot(&[10.0, 10.5, 9.8]).unwrap();
        assert!(close.contains("a thing") && close.contains("median") && close.contains(" %"));
        let far = plot(&[10.0, 100.0, 2.0]).unwrap();
        assert!(far.contains("4x") && far.contains("1/4"), "{far}");
        assert_eq!(far.matches("<circle").count(), 3);
        assert!(plot(&[]).is_none());
    }
}
