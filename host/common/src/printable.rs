//! Text of others (an app, a peer, a database) on its way to a terminal, a log or a page: no character of
//! it may move the cursor, begin a line or turn the reading order round.

use std::borrow::Cow;

/// Characters that change how the text around them is shown.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text on one line: control characters, line breaks included, and marks of the reading order are
/// escaped as in Rust's literals.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unprintable(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// The same with its line breaks. Each line behind the first is set in by two spaces: none can be taken
/// for a line of the host's own.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    let (lines, end) = match text.strip_suffix('\n') {
        Some(lines) => (lines, "\n"),
        None => (text, ""),
    };
    if !lines.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let lines: Vec<Cow<'_, str>> = lines.split('\n').map(printable).collect();
    Cow::Owned(lines.join("\n  ") + end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_text_stays_as_it_is() {
        for text in ["", "a relation \"t\" does not exist", "größer, 大きい, 🦀", r"a \ backslash"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
            assert!(matches!(printable_lines(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn what_moves_the_cursor_or_turns_the_text_is_escaped() {
        assert_eq!(printable("a\nb\r\tc"), r"a\nb\r\tc");
        assert_eq!(printable("\u{1b}[2J\u{7f}\u{9b}\0"), r"\u{1b}[2J\u{7f}\u{9b}\u{0}");
        for hidden in ['\u{2028}', '\u{2029}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}', '\u{feff}'] {
            assert_eq!(printable(&format!("a{hidden}b")), format!("a\\u{{{:x}}}b", u32::from(hidden)));
        }
        assert_eq!(printable("\u{202f}\u{2065}\u{206a}"), "\u{202f}\u{2065}\u{206a}", "their neighbours are harmless");
    }

    #[test]
    fn lines_behind_the_first_are_set_in() {
        assert_eq!(printable_lines("a\nINFO forged\n\nb"), "a\n  INFO forged\n  \n  b");
        assert_eq!(printable_lines("a\r\nb\u{1b}"), "a\\r\n  b\\u{1b}");
        assert_eq!(printable_lines("a\n"), "a\n");
        assert_eq!(printable_lines("a\nb\n"), "a\n  b\n");
    }
}
