//! The files of a run that was measured before.

use std::path::{Path, PathBuf};

use crate::report::{Report, csv, html, markdown};
use crate::run::write;
use crate::{BenchError, claims};

/// What is made of a report; `-` is stdout.
#[derive(Clone, Debug, Default)]
pub struct Rendered {
    /// A page with plots.
    pub html: Option<PathBuf>,
    /// The measures, a line each.
    pub csv: Option<PathBuf>,
    /// The main figures, for a README.
    pub markdown: Option<PathBuf>,
}

/// Writes `files` of the figures in the JSON file `json`. The verdicts are made anew of the
/// figures.
///
/// # Errors
/// When `json` is no report of this version, or a file can't be written.
pub fn render(json: &Path, files: &Rendered) -> Result<(), BenchError> {
    let mut report = Report::read(json)?;
    report.claims = claims::of(&report);
    report.promises = claims::promises(&report);
    if let Some(path) = &files.html {
        write(path, &html::page(&report)?)?;
    }
    if let Some(path) = &files.csv {
        write(path, &csv::lines(&report)?)?;
    }
    if let Some(path) = &files.markdown {
        write(path, &markdown::numbers(&report))?;
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
        let [json, page, lines, figures] =
            ["r.json", "r.html", "r.csv", "r.md"].map(|name| folder.join(name));
        std::fs::write(&json, Report::empty().json().unwrap()).unwrap();
        let files = Rendered {
            html: Some(page.clone()),
            csv: Some(lines.clone()),
            markdown: Some(figures.clone()),
        };
        render(&json, &files).unwrap();
        let [page, lines, figures] =
            [page, lines, figures].map(|path| std::fs::read_to_string(path).unwrap());
        // The JSON has no claims yet, and the page has all of them.
        assert!(page.contains("id=\"claim-11\""), "{page}");
        assert!(lines.starts_with("id,section,"), "{lines}");
        assert!(figures.starts_with("`tine bench`"), "{figures}");
        std::fs::write(&json, "{ \"version\": 1 }").unwrap();
        assert!(matches!(
            render(&json, &Rendered::default()),
            Err(BenchError::Version { version: 1, .. })
        ));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
