//! The colours of the plots, and how they follow those of the page: light, dark, on paper.
//!
//! An SVG has fixed colours, which a viewer of the file alone sees. In the page each of them
//! is a class too, and the page's style says what it looks like there.

use plotters::style::RGBColor;

/// Blue, vermilion, green, orange, purple, sky: told apart by people who do not see all
/// colours (Okabe and Ito); then some more for bars of many parts.
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
/// Words and axes.
pub const INK: RGBColor = RGBColor(40, 44, 52);
/// Lines behind all others.
pub const GRID: RGBColor = RGBColor(225, 228, 232);
/// What all is drawn on.
pub const PAPER: RGBColor = RGBColor(255, 255, 255);

/// The colour number `index`; they begin anew after the last.
pub fn color(index: usize) -> RGBColor {
    COLORS[index % COLORS.len()]
}

/// `svg` as a figure of the page, with `title` above it and for those who don't see it.
pub fn figure(title: &str, svg: &str) -> String {
    let title = super::html::escape(title);
    let mut svg = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{title}\" "), 1);
    let named = [("ink", INK), ("grid", GRID), ("paper", PAPER)];
    let named = named.map(|(name, color)| (name.to_owned(), color));
    let numbered = COLORS.iter().enumerate().map(|(index, color)| (index.to_string(), *color));
    for (name, RGBColor(red, green, blue)) in named.into_iter().chain(numbered) {
        for attribute in ["fill", "stroke"] {
            let fixed = format!("{attribute}=\"#{red:02X}{green:02X}{blue:02X}\"");
            let class = format!("class=\"{}-{name}\" {fixed}", &attribute[..1]);
            svg = svg.replace(&fixed, &class);
        }
    }
    format!(
        "<figure class=\"short\"><figcaption>{title}</figcaption>\n<div class=\"plot\">{svg}</div>\
         </figure>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_gets_a_class() {
        let svg = "<svg width=\"1\"><rect fill=\"#0072B2\" stroke=\"none\"/>\
                   <line stroke=\"#282C34\"/></svg>";
        let figure = figure("a < b", svg);
        assert!(figure.contains("<rect class=\"f-0\" fill=\"#0072B2\" stroke=\"none\"/>"));
        assert!(figure.contains("<line class=\"s-ink\" stroke=\"#282C34\"/>"));
        assert!(figure.contains("role=\"img\" aria-label=\"a &lt; b\" width=\"1\""));
    }
}
