//! The frame of every page of this program: one style for dark and light, for wide and narrow windows, no network. Text of
//! unknown origin becomes markup here.

use crate::inspect::escape;

const STYLE: &str = include_str!("page.css");

/// What a page may load: nothing but what is in it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// A page of markup.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Its title.
    pub title: &'a str,
    /// Rules beside those of all pages.
    pub style: &'a str,
    /// What is between the tags of its body.
    pub body: &'a str,
    /// What it runs; without, it may run nothing.
    pub script: Option<&'a str>,
}

/// The whole document.
pub fn page(page: &Page<'_>) -> String {
    let Page { title, style, body, script } = page;
    let may_run = if script.is_some() { "; script-src 'unsafe-inline'" } else { "" };
    let script = script.map_or(String::new(), |script| format!("<script>\n{script}</script>\n"));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}{may_run}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n\
         {body}{script}</body>\n</html>\n"
    )
}

/// Text from anywhere, for text and quoted attributes of HTML.
pub fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in escape(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
