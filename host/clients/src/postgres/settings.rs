//! The settings of an address, found where the client's own parser finds them.
//!
//! tokio-postgres knows no `verify-ca` and no `verify-full`, so its parser alone cannot say what an address
//! asks for; and a search in the text finds `sslmode` in passwords and misses it behind blanks, quotes and
//! percent signs. This reads both forms with the client's rules (`Parser` and `UrlParser` of its `config.rs`)
//! and refuses what the client would leave unread.

use std::borrow::Cow;
use std::iter::Peekable;
use std::ops::Range;
use std::str::CharIndices;

use percent_encoding::percent_decode_str;

/// One setting of an address.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting<'a> {
    pub name: Cow<'a, str>,
    pub value: Cow<'a, str>,
    /// Where the value stands in the address, quotes included.
    pub at: Range<usize>,
}

/// Why an address has no settings; nothing of its text is told, for it may be of the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is no list of settings, or something is left over at its end.
    Form,
    /// An `@` stands behind the one that ends the password, or the user has a `/` or a `?`: what the client
    /// takes for the host is a part of the password then, or of a setting.
    Password,
}

/// All settings of an address but those that a URL has in front of its `?`.
pub fn settings(text: &str) -> Result<Vec<Setting<'_>>, Unreadable> {
    let prefix = ["postgres://", "postgresql://"].into_iter().find(|prefix| text.starts_with(prefix));
    match prefix {
        Some(prefix) => of_url(text, prefix.len()),
        None => Pairs { text, rest: text.char_indices().peekable() }.all(),
    }
}

fn of_url(text: &str, from: usize) -> Result<Vec<Setting<'_>>, Unreadable> {
    // The client ends the credentials at the first @, wherever that is.
    let mut at = match text[from..].find('@') {
        None => from,
        Some(length) => {
            let user = text[from..from + length].split(':').next().unwrap_or_default();
            if user.contains(['/', '?']) || text[from + length + 1..].contains('@') {
                return Err(Unreadable::Password);
            }
            from + length + 1
        }
    };
    let find = |at: usize, end: &[char]| text[at..].find(end).map_or(text.len(), |length| at + length);
    at = find(at, &['/', '?']);
    if text[at..].starts_with('/') {
        at = find(at, &['?']);
    }
    let mut settings = Vec::new();
    at += 1;
    while at < text.len() {
        let equals = at + text[at..].find('=').ok_or(Unreadable::Form)?;
        let end = find(equals + 1, &['&']);
        let decode = |part| percent_decode_str(part).decode_utf8().map_err(|_| Unreadable::Form);
        settings.push(Setting {
            name: decode(&text[at..equals])?,
            value: decode(&text[equals + 1..end])?,
            at: equals + 1..end,
        });
        at = end + 1;
    }
    Ok(settings)
}

/// The form `key=value key='value with blanks'`.
struct Pairs<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
}

impl<'a> Pairs<'a> {
    fn all(mut self) -> Result<Vec<Setting<'a>>, Unreadable> {
        let mut settings = Vec::new();
        loop {
            self.skip(char::is_whitespace);
            let start = self.place();
            self.skip(|c| !c.is_whitespace() && c != '=');
            let name = &self.text[start..self.place()];
            if name.is_empty() {
                // The client ends here; what stands behind it, it would not see.
                return if self.place() == self.text.len() { Ok(settings) } else { Err(Unreadable::Form) };
            }
            self.skip(char::is_whitespace);
            self.eat('=')?;
            self.skip(char::is_whitespace);
            let start = self.place();
            let value = self.value()?;
            settings.push(Setting { name: name.into(), value: value.into(), at: start..self.place() });
        }
    }

    fn place(&mut self) -> usize {
        self.rest.peek().map_or(self.text.len(), |(place, _)| *place)
    }

    fn skip(&mut self, matches: impl Fn(char) -> bool) {
        while self.rest.next_if(|(_, c)| matches(*c)).is_some() {}
    }

    fn eat(&mut self, wanted: char) -> Result<(), Unreadable> {
        self.rest.next_if(|(_, c)| *c == wanted).map(|_| ()).ok_or(Unreadable::Form)
    }

    fn value(&mut self) -> Result<String, Unreadable> {
        let quoted = self.eat('\'').is_ok();
        let ends = |c: char| if quoted { c == '\'' } else { c.is_whitespace() };
        let mut value = String::new();
        while let Some((_, c)) = self.rest.next_if(|(_, c)| !ends(*c)) {
            // Behind a backslash any character stands for itself, and a backslash at the end for nothing.
            let c = if c == '\\' { self.rest.next().map(|(_, c)| c) } else { Some(c) };
            value.extend(c);
        }
        if quoted {
            self.eat('\'')?;
        } else if value.is_empty() {
            return Err(Unreadable::Form);
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(String, String, String)> {
        let own = |setting: Setting<'_>| (setting.name.into(), setting.value.into(), text[setting.at].to_owned());
        settings(text).unwrap().into_iter().map(own).collect()
    }

    #[test]
    fn both_forms_are_read_with_blanks_quotes_and_percent_signs() {
        let setting = |name: &str, value: &str, at: &str| (name.to_owned(), value.to_owned(), at.to_owned());
        assert_eq!(
            found(r"  a = 'x \' = y'  b=\ z c=''"),
            [setting("a", "x ' = y", r"'x \' = y'"), setting("b", " z", r"\ z"), setting("c", "", "''")]
        );
        assert_eq!(
            found("postgres://u:a://b?c=d@h,i:1/d?%61=x%20y&b=&c=a=b"),
            [setting("a", "x y", "x%20y"), setting("b", "", ""), setting("c", "a=b", "a=b")]
        );
        assert_eq!(found("postgresql://h?a=b"), [setting("a", "b", "b")]);
        assert_eq!(found("postgres://h/d"), []);
    }

    #[test]
    fn what_the_client_would_misread_or_leave_unread_is_refused() {
        for text in ["a", "a=", "a='x", "a=b =c", "a=b =", "postgres://h/d?a", "postgres://h/?a=%ff"] {
            assert_eq!(settings(text), Err(Unreadable::Form), "{text}");
        }
        for text in
            ["postgres://u:half@half@h/d", "postgres://u:a@b/c@h/d", "postgres://u:a@b?c=d@h", "postgres://h/d?a=b@c"]
        {
            assert_eq!(settings(text), Err(Unreadable::Password), "{text}");
        }
    }
}
