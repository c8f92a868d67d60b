//! Words of a camera in messages for a person.

/// `text` in one line of at most `max_chars` characters.
pub(super) fn shown(text: &str, max_chars: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(max_chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_short_line() {
        assert_eq!(shown("a\u{7}b\nc", 99), "a b c");
        assert_eq!(shown("äöü", 2), "äö");
    }
}
