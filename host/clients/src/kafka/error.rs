//! Why a client cannot be set up, in words that hold no value of a property.
//!
//! Any property may be a secret, a mistyped one as well (`sasl.pasword`), and librdkafka's reasons
//! repeat what they refuse, whole or a part of a list.

/// A shorter text is taken out only where it stands alone: it would be part of other words.
const SHORT: usize = 4;

/// Why there is no client; where one property alone is at fault, it is named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The name is unknown to librdkafka, or the value is refused or has a NUL.
    #[error("the Kafka property {name} cannot be used: {reason}")]
    Property {
        /// As the settings write it, which may be mistyped.
        name: String,
        /// In librdkafka's words, with `***` in the place of the value.
        reason: String,
    },
    /// The properties are refused together, such as a key file that cannot be read, or a thread cannot be started.
    #[error("the Kafka client cannot be set up: {0}")]
    Client(String),
}

/// Why a text is not a list of brokers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerAddressError {
    /// Somebody's URL with a password, of which any part may be in any entry: nothing of it is shown.
    #[error("the broker list has an @: a broker is host:port, without a name and a password")]
    Credentials,
    /// An entry without a port, or with one that is no number up to 65535.
    #[error("the broker {0:?} has no port")]
    NoPort(String),
    /// An entry whose host is empty, or has a character that no host has.
    #[error("the broker {0:?} is not of the form host:port")]
    NotAnAddress(String),
}

/// Why a cluster did not describe a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescribeError {
    /// No topic can have this name: it has a NUL.
    #[error("the topic's name has a NUL")]
    BadName,
    /// The cluster knows no topic of this name, or does not let this user see it.
    #[error("no such topic")]
    NoSuchTopic,
    /// The cluster is older than Kafka 2.8: a topic that is recreated could not be told from the one before.
    #[error("the cluster gives its topics no ids (Kafka 2.8 and newer does)")]
    NoIds,
    /// The cluster did not answer within the time-out; a later try may succeed.
    #[error("no answer in time")]
    NoAnswer,
    /// What librdkafka or the cluster says instead.
    #[error("{0}")]
    Other(String),
}

impl ClientError {
    /// A property that is refused; `value` is taken out of the reason.
    pub fn property(name: &str, reason: &str, value: &str) -> Self {
        Self::Property { name: name.to_owned(), reason: without(reason, [value]) }
    }

    /// A client that cannot be made; what any property holds is taken out of the reason.
    pub fn client<'a>(reason: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Client(without(reason, values))
    }

    /// What a guest may know of it: it has not made the settings.
    pub fn for_guests(&self) -> String {
        let settings = "the host's Kafka settings cannot be used";
        match self {
            Self::Property { name, .. } => format!("{settings}: {name}"),
            Self::Client(_) => settings.to_owned(),
        }
    }
}

/// The reason without the values and without the entries of those that are lists.
fn without<'a>(reason: &str, values: impl IntoIterator<Item = &'a str>) -> String {
    let separates = |c: char| matches!(c, ',' | ';') || c.is_whitespace();
    let mut parts: Vec<&str> = values
        .into_iter()
        .flat_map(|value| std::iter::once(value).chain(value.split(separates)))
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect();
    // A long one first: it may contain a short one.
    parts.sort_unstable_by_key(|part| (std::cmp::Reverse(part.len()), *part));
    parts.dedup();
    parts.iter().fold(reason.trim().to_owned(), |text, part| take_out(&text, part))
}

fn take_out(text: &str, part: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(part) {
        let (before, after) = (&rest[..at], &rest[at + part.len()..]);
        let is_word = !joins(before.chars().rev()) && !joins(after.chars());
        cleaned += before;
        cleaned += if is_word || part.len() >= SHORT { "***" } else { part };
        rest = after;
    }
    cleaned + rest
}

/// Whether a word, or a property's name with dots, goes on with these.
fn joins(mut next: impl Iterator<Item = char>) -> bool {
    match next.next() {
        Some('.') => next.next().is_some_and(char::is_alphabetic),
        next => next.is_some_and(|c| c.is_alphanumeric() || c == '_'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_out_wherever_they_stand() {
        let error = ClientError::property("p", "Invalid value \"geheim\" for \"p\": geheimer", "geheim");
        assert_eq!(error.to_string(), "the Kafka property p cannot be used: Invalid value \"***\" for \"p\": ***er");
        assert_eq!(without("cannot use b of a, b", ["a, b"]), "cannot use *** of ***");
        assert_eq!(without("value 5 is outside 5..15", ["5"]), "value *** is outside ***..15");
        assert_eq!(without("ssl.key failed for ssl", ["ssl"]), "ssl.key failed for ***");
        assert_eq!(without("the password is wrong", [""]), "the password is wrong");
        assert_eq!(without("no file /a/key: none", ["/a/key", "none"]), "no file ***: ***");
    }

    #[test]
    fn guests_learn_the_property_alone() {
        let error = ClientError::property("sasl.pasword", "no such property", "geheim");
        assert_eq!(error.for_guests(), "the host's Kafka settings cannot be used: sasl.pasword");
        let error = ClientError::client("no file /a/key", ["/a/key"]);
        assert_eq!(error.for_guests(), "the host's Kafka settings cannot be used");
    }
}
