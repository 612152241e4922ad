//! The files of a run that was measured before.

use std::path::Path;

use crate::report::{Report, csv, html};
use crate::run::write;
use crate::{BenchError, claims};

/// Writes a page, or the measures, or both, of the figures in the JSON file `json`. The
/// verdicts are made anew of the figures.
///
/// # Errors
/// When `json` is no report of this version, or a file can't be written.
pub fn render(json: &Path, page: Option<&Path>, lines: Option<&Path>) -> Result<(), BenchError> {
    let mut report = Report::read(json)?;
    report.claims = claims::of(&report);
    report.promises = claims::promises(&report);
    if let Some(path) = page {
        write(path, &html::page(&report)?)?;
    }
    if let Some(path) = lines {
        write(path, &csv::lines(&report)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_report_becomes_a_page_and_lines() {
        let folder = std::env::temp_dir().join(format!("tine-render-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [json, page, lines] = ["r.json", "r.html", "r.csv"].map(|name| folder.join(name));
        std::fs::write(&json, Report::empty().json().unwrap()).unwrap();
        render(&json, Some(&page), Some(&lines)).unwrap();
        let (page, lines) = [page, lines].map(|path| std::fs::read_to_string(path).unwrap()).into();
        // The JSON has no claims yet, and the page has all of them.
        assert!(page.contains("id=\"claim-11\""), "{page}");
        assert!(lines.starts_with("id,section,"), "{lines}");
        std::fs::write(&json, "{ \"version\": 1 }").unwrap();
        assert!(matches!(render(&json, None, None), Err(BenchError::Version { version: 1, .. })));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
