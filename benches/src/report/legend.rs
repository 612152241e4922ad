//! The names of what a plot shows, above it, where they cover nothing.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::theme::{INK, PAPER};

/// Where the first name begins, and where the last ends, pixels.
const SIDES: (i32, i32) = (14, 846);
/// Height of a line of names, pixels.
const LINE: i32 = 24;
/// A letter of the legend's font is about so wide, pixels.
const LETTER: f64 = 6.9;
/// Words that end at their place.
pub const AT_RIGHT: Pos = Pos { h_pos: HPos::Right, v_pos: VPos::Center };
/// Words that begin at their place.
pub const AT_LEFT: Pos = Pos { h_pos: HPos::Left, v_pos: VPos::Center };

/// What stands before a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A box, for bars.
    Box,
    /// A line with filled points.
    Filled,
    /// A line with open points.
    Open,
    /// A ring around a point.
    Ring,
    /// A line without points.
    Plain,
}

/// One name.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub color: RGBColor,
    pub sign: Sign,
}

/// The font of all words in plots.
pub fn font() -> TextStyle<'static> {
    ("sans-serif", 15).into_font().color(&INK)
}

/// Where each of `entries` begins.
fn places(entries: &[Entry]) -> Vec<(i32, i32)> {
    let (mut x, mut y) = (SIDES.0, LINE / 2 + 2);
    let mut places = Vec::new();
    for entry in entries {
        let width = 32 + (entry.name.chars().count() as f64 * LETTER) as i32;
        if x > SIDES.0 && x + width > SIDES.1 {
            (x, y) = (SIDES.0, y + LINE);
        }
        places.push((x, y));
        x += width + 18;
    }
    places
}

/// How high they are together, pixels.
pub fn height(entries: &[Entry]) -> i32 {
    places(entries).last().map_or(0, |place| place.1 + LINE / 2)
}

/// Draws them at the top.
pub fn draw(
    root: &DrawingArea<SVGBackend<'_>, Shift>,
    entries: &[Entry],
) -> Result<(), Box<dyn std::error::Error>> {
    for (entry, (x, y)) in entries.iter().zip(places(entries)) {
        let color = entry.color;
        match entry.sign {
            Sign::Box => {
                root.draw(&Rectangle::new([(x + 8, y - 7), (x + 22, y + 7)], color.filled()))?;
            }
            Sign::Ring => {
                root.draw(&Circle::new((x + 12, y), 7, color.stroke_width(2)))?;
            }
            Sign::Plain => {
                root.draw(&PathElement::new([(x, y), (x + 24, y)], color.stroke_width(2)))?;
            }
            Sign::Filled | Sign::Open => {
                let inside = if entry.sign == Sign::Open { PAPER } else { color };
                root.draw(&PathElement::new([(x, y), (x + 24, y)], color.stroke_width(2)))?;
                root.draw(&Circle::new((x + 12, y), 4, inside.filled()))?;
                root.draw(&Circle::new((x + 12, y), 4, color.stroke_width(2)))?;
            }
        }
        root.draw(&Text::new(entry.name.clone(), (x + 30, y), font().pos(AT_LEFT)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_fit_begin_a_new_line() {
        let entry = |length| Entry { name: "m".repeat(length), color: INK, sign: Sign::Box };
        assert_eq!(height(&[]), 0);
        assert_eq!(places(&[entry(10), entry(10)]).iter().map(|at| at.1).max(), Some(14));
        let lines = places(&[entry(80), entry(80), entry(10)]);
        assert_eq!((lines[0].1, lines[1].1, lines[1].0), (14, 38, SIDES.0));
        assert!(lines[2].1 == 38 && lines[2].0 > lines[1].0);
    }
}
