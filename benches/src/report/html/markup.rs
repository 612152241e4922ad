//! The small pieces that the page is made of.

use crate::claims::Verdict;
use crate::report::tables::Table;

/// The page as it grows.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    /// Tables until now: each has a caption with an id of its own.
    captions: usize,
}

impl Page {
    /// Adds `html` as it is.
    pub fn push(&mut self, html: &str) {
        self.text.push_str(html);
    }

    /// All of it.
    pub fn text(self) -> String {
        self.text
    }

    /// Begins a section that `id` leads to. `title` is markup.
    pub fn begin(&mut self, id: &str, title: &str) {
        self.push(&format!("<section id=\"{id}\">\n<h2>{title}</h2>\n"));
    }

    /// Ends it.
    pub fn end(&mut self) {
        self.push("</section>\n");
    }

    /// Adds a table whose figures lie to the right.
    pub fn table(&mut self, table: &Table) {
        let class = |index: usize| if index < table.words { "" } else { " class=\"n\"" };
        let heads = table.columns.iter().enumerate();
        let heads = heads.map(|(index, column)| {
            format!("<th scope=\"col\"{}>{}</th>", class(index), escape(column))
        });
        let heads: String = heads.collect();
        let cell = |(index, cell): (usize, &String)| {
            let (class, cell) = (class(index), escape(cell));
            match index {
                0 if !cell.is_empty() => format!("<th scope=\"row\"{class}>{cell}</th>"),
                _ => format!("<td{class}>{cell}</td>"),
            }
        };
        let row = |row: &Vec<String>| -> String { row.iter().enumerate().map(cell).collect() };
        let rows: Vec<String> = table.rows.iter().map(row).collect();
        self.rows(table.title, &table.note, "", &heads, &rows);
    }

    /// Adds a table of rows that are markup already, under `heads` that are too.
    pub fn rows(&mut self, title: &str, note: &str, class: &str, heads: &str, rows: &[String]) {
        self.captions += 1;
        let id = format!("table-{}", self.captions);
        // On paper a short table is not cut; a long one has to be.
        let short = if rows.len() <= 16 { " short" } else { "" };
        let body: String = rows.iter().map(|row| format!("<tr>{row}</tr>\n")).collect();
        self.push(&format!(
            "<div class=\"table{short}\">\n<p class=\"caption\" id=\"{id}\"><b>{}</b>\
             <span>{}</span></p>\n<div class=\"wide\" role=\"region\" tabindex=\"0\" \
             aria-labelledby=\"{id}\">\n<table class=\"{class}\" aria-labelledby=\"{id}\">\n\
             <thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n</div>\n",
            escape(title),
            code(note)
        ));
    }

    /// Adds lines for a shell.
    pub fn shell(&mut self, lines: &[impl AsRef<str>]) {
        let lines: Vec<String> = lines.iter().map(|line| escape(line.as_ref())).collect();
        self.push(&format!("<pre><code>{}</code></pre>\n", lines.join("\n")));
    }
}

/// The heads of columns of words.
pub fn heads(names: &[&str]) -> String {
    names.iter().map(|name| format!("<th scope=\"col\">{name}</th>")).collect()
}

/// A verdict, with a sign and a word beside its colour.
pub fn badge(verdict: Verdict) -> String {
    labelled(verdict, verdict.words())
}

/// The same with other words.
pub fn labelled(verdict: Verdict, words: &str) -> String {
    let (class, sign) = match verdict {
        Verdict::Holds => ("holds", "✓"),
        Verdict::Partly => ("partly", "~"),
        Verdict::Contradicted => ("contradicted", "✗"),
        Verdict::NotMeasured => ("not_measured", "–"),
    };
    format!("<span class=\"badge {class}\"><span aria-hidden=\"true\">{sign} </span>{words}</span>")
}

/// `text` made harmless, with what stands between backquotes as code.
pub fn code(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(index, part)| match index % 2 {
        0 => escape(part),
        _ => format!("<code>{}</code>", escape(part)),
    });
    parts.collect()
}

/// `text` with what HTML would take for markup made harmless.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
