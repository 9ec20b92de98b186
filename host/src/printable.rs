//! Text of others, as it may stand in a terminal, a log or an answer: what moves the cursor, ends a line or
//! turns the order of letters is shown, not done.

use std::borrow::Cow;

fn is_harmless(character: char) -> bool {
    let turns_or_ends = matches!(
        character,
        '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    );
    !character.is_control() && !turns_or_ends
}

fn escape(text: &str, kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(|character| is_harmless(character) || kept(character)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_harmless(character) || kept(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_default());
        }
    }
    Cow::Owned(shown)
}

/// The text in one line: control characters, line breaks among them, and characters that change the
/// direction are escaped.
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// The same for a text of several lines: it keeps its line breaks, and each further line is indented, so that
/// none can pass for one of the host's own.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    let shown = escape(text, |character| character == '\n');
    if shown.contains('\n') { Cow::Owned(shown.replace('\n', "\n  ")) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(printable("plain, ünïcode and \u{1f600}"), "plain, ünïcode and \u{1f600}");
        assert!(matches!(printable("plain"), Cow::Borrowed(_)));
        assert_eq!(printable("\u{1b}[2J\r\n\t\0\u{9b}x\u{7f}"), "\\u{1b}[2J\\r\\n\\t\\u{0}\\u{9b}x\\u{7f}");
        assert_eq!(printable("a\u{202e}b\u{2028}c\u{feff}"), "a\\u{202e}b\\u{2028}c\\u{feff}");
    }

    #[test]
    fn lines_stay_lines_and_none_begins_like_the_hosts_own() {
        assert_eq!(printable_lines("one\nError: two\u{1b}"), "one\n  Error: two\\u{1b}");
        assert_eq!(printable_lines("one"), "one");
    }
}
