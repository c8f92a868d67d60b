//! The page that `make bench` writes: what it measured goes between markers, what people wrote around them stays.
//!
//! ```text
//! <!-- make bench: NAME -->
//! …
//! <!-- end of NAME -->
//! ```

use anyhow::{Context, Result, bail};

fn begin(name: &str) -> String {
    format!("<!-- make bench: {name} -->")
}

fn end(name: &str) -> String {
    format!("<!-- end of {name} -->")
}

/// The page with `text` as its section `name`.
///
/// # Errors
/// When the page has no such section, has it twice, or its end is missing.
pub fn put(page: &str, name: &str, text: &str) -> Result<String> {
    let (begin, end) = (begin(name), end(name));
    let (before, rest) = page.split_once(&begin).with_context(|| format!("the page has no line `{begin}`"))?;
    let (_, behind) =
        rest.split_once(&end).with_context(|| format!("the page has no line `{end}` behind `{begin}`"))?;
    if behind.contains(&begin) {
        bail!("the page has `{begin}` twice");
    }
    Ok(format!("{before}{begin}\n{}\n{end}{behind}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# T\n\nby hand\n<!-- make bench: a -->\nold\n<!-- end of a -->\nby hand\n<!-- make bench: b -->\n<!-- end of b -->\n";

    #[test]
    fn only_the_section_changes_and_again_gives_the_same() {
        let once = put(PAGE, "a", "\nnew\nlines\n\n").unwrap();
        assert_eq!(once, PAGE.replace("old", "new\nlines"));
        assert_eq!(put(&once, "a", "new\nlines").unwrap(), once);
        assert_eq!(put(&once, "b", "x").unwrap(), once.replace("b -->\n<!-- end", "b -->\nx\n<!-- end"));
    }

    #[test]
    fn a_page_without_the_markers_is_left_alone() {
        for (page, said) in [
            ("nothing", "no line `<!-- make bench: a -->`"),
            ("<!-- make bench: a -->\n", "no line `<!-- end of a -->`"),
            (&format!("{PAGE}{PAGE}"), "twice"),
        ] {
            let error = put(page, "a", "x").unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
