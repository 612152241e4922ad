//! How far to trust the figures.

use super::markup::{Page, escape};
use crate::BenchError;
use crate::report::Report;
use crate::report::dots::DotPlot;
use crate::report::units::{percent, short, time};
use crate::stats::median;

/// The noise floor and where it comes from.
pub fn section(page: &mut Page, report: &Report) -> Result<(), BenchError> {
    page.begin("noise", "Noise");
    page.push(
        "<p>Before each section the suite does the same few things again, which have nothing to \
         do with what it measures. By whatever their readings differ, the host made them \
         differ.</p>\n",
    );
    page.push(&format!("<p><b>{}</b></p>\n", escape(&floor(report))));
    let controls = &report.noise.controls;
    let rows = controls.iter().map(|control| {
        let middle = median(control.readings_us.iter().copied());
        (format!("{} ({})", control.name, time(middle)), control.readings_us.clone())
    });
    let plot =
        DotPlot { title: "Readings of each control, against its median", rows: rows.collect() };
    if let Some(plot) = plot.svg()? {
        page.push(&plot);
    }
    page.end();
    Ok(())
}

/// The floor in words.
fn floor(report: &Report) -> String {
    match report.noise.floor {
        None => "No control was read twice, so that nothing is known of the noise.".to_owned(),
        Some(floor) if floor < 1.0 => format!(
            "Noise floor: {}. Two figures of this page that differ by less do not differ.",
            percent(floor)
        ),
        Some(floor) => format!(
            "Noise floor: a factor of {}. This host was busy with something else: two figures \
             that differ by less do not differ, so run it again on a quiet host.",
            short(1.0 + floor)
        ),
    }
}
