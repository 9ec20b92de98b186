//! The three fields of a record that are read, their names and what stands in them.

use std::borrow::Cow;

/// One of the three fields that a schema names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A string, a whole number or a boolean: the code that an event is counted under.
    Key,
    /// A number, which is read as a double.
    Value,
    /// A string or a number, by the schema's [`TimeFormat`](crate::time::TimeFormat).
    Time,
}

/// The names of the three fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldNames {
    /// The setting `key_field`: a name at the top level of the record, compared byte for byte.
    pub key: String,
    /// The setting `value_field`, which is compared in the same way.
    pub value: String,
    /// The setting `time_field`, which is compared in the same way.
    pub time: String,
}

impl FieldNames {
    /// The field that a name stands for; where two fields have one name, the first of key, value and time.
    pub(crate) fn field(&self, name: &[u8]) -> Option<Field> {
        if name == self.key.as_bytes() {
            Some(Field::Key)
        } else if name == self.value.as_bytes() {
            Some(Field::Value)
        } else if name == self.time.as_bytes() {
            Some(Field::Time)
        } else {
            None
        }
    }
}

/// Where each of the three fields stands that does not stand at the top level under its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Within the record: all three, where one of them is deeper than the top level.
    pub(crate) paths: Vec<(Field, Vec<String>)>,
    /// The key is the record's own, beside its value.
    pub(crate) key: Option<BesideKey>,
    /// The time is Kafka's.
    pub(crate) time: bool,
}

/// What of a record, beside its value, is the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BesideKey {
    /// Its key, which has to be UTF-8.
    Key,
    /// The number of its partition.
    Partition,
}

/// Why a place cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The setting, what it says, and what of Kafka's it may say.
    #[error("{0} is {1:?}: of Kafka's own there is {2}")]
    NotOfKafka(&'static str, String, &'static str),
    /// The setting, what it says, and what is wrong.
    #[error("{0} is {1:?}, which is no path: {2}")]
    BadPath(&'static str, String, &'static str),
}

/// Before the name of something that Kafka has beside a record's value.
const OF_KAFKA: &str = "kafka:";

impl Places {
    /// Reads the settings `key_field`, `value_field` and `time_field`. Each is a name at the top level; or a path, as a JSON
    /// pointer (`/a/b/0`, RFC 6901) or with dots (`$.a.b[0]`); or `kafka:key`, `kafka:partition` and `kafka:timestamp`.
    ///
    /// # Errors
    /// When one begins as a path or as Kafka's and is none.
    pub fn parse(key: &str, value: &str, time: &str) -> Result<(FieldNames, Self), PlaceError> {
        let mut places = Self::default();
        let fields =
            [(Field::Key, "key_field", key), (Field::Value, "value_field", value), (Field::Time, "time_field", time)];
        let mut paths = Vec::new();
        for (field, setting, text) in fields {
            match (field, text.strip_prefix(OF_KAFKA)) {
                (Field::Key, Some("key")) => places.key = Some(BesideKey::Key),
                (Field::Key, Some("partition")) => places.key = Some(BesideKey::Partition),
                (Field::Time, Some("timestamp")) => places.time = true,
                (_, Some(_)) => {
                    let known = match field {
                        Field::Key => "kafka:key and kafka:partition",
                        Field::Value => "nothing that is a value",
                        Field::Time => "kafka:timestamp",
                    };
                    return Err(PlaceError::NotOfKafka(setting, text.to_owned(), known));
                }
                (_, None) => {
                    let path = path(text).map_err(|why| PlaceError::BadPath(setting, text.to_owned(), why))?;
                    paths.push((field, path.unwrap_or_else(|| vec![text.to_owned()])));
                }
            }
        }
        if paths.iter().any(|(_, path)| path.len() > 1) {
            places.paths.clone_from(&paths);
        }
        // What stands elsewhere is taken from there, whatever stands under the empty name.
        let name = |field| {
            let found = paths.iter().find(|(known, _)| *known == field);
            found.and_then(|(_, path)| path.first()).cloned().unwrap_or_default()
        };
        Ok((FieldNames { key: name(Field::Key), value: name(Field::Value), time: name(Field::Time) }, places))
    }

    /// Whether anything is asked for that does not stand in the record's value.
    #[inline]
    pub(crate) fn is_beside(&self) -> bool {
        self.key.is_some() || self.time
    }
}

/// The steps of a path; none where the text is a name.
fn path(text: &str) -> Result<Option<Vec<String>>, &'static str> {
    if let Some(pointer) = text.strip_prefix('/') {
        let step = |step: &str| step.replace("~1", "/").replace("~0", "~");
        return Ok(Some(pointer.split('/').map(step).collect()));
    }
    let Some(dotted) = text.strip_prefix("$.") else { return Ok(None) };
    let mut steps = Vec::new();
    for part in dotted.split('.') {
        let mut pieces = part.split('[');
        let name = pieces.next().unwrap_or_default();
        if name.is_empty() {
            return Err("a name is empty");
        }
        steps.push(name.to_owned());
        for piece in pieces {
            // As an index is written: 0, 1, 2.
            let index =
                piece.strip_suffix(']').filter(|index| index.parse::<u32>().is_ok_and(|n| n.to_string() == *index));
            steps.push(index.ok_or("an index is a number in brackets")?.to_owned());
        }
    }
    Ok(Some(steps))
}

/// A JSON value as far as it matters here.
#[derive(Debug, Default)]
pub(crate) enum Scalar<'a> {
    #[default]
    Missing,
    Null,
    Text(Cow<'a, [u8]>),
    Integer(i64),
    /// Beyond [`i64`].
    Unsigned(u64),
    Float(f64),
    Bool(bool),
    Other,
}

/// What stands in the three fields of one record.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a> {
    pub key: Scalar<'a>,
    pub value: Scalar<'a>,
    pub time: Scalar<'a>,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(&mut self, field: Field) -> &mut Scalar<'a> {
        match field {
            Field::Key => &mut self.key,
            Field::Value => &mut self.value,
            Field::Time => &mut self.time,
        }
    }
}

#[cfg(test)]
pub(crate) fn names() -> FieldNames {
    FieldNames { key: "code".into(), value: "volume".into(), time: "time".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_name_a_path_or_kafkas() {
        let (names, places) = Places::parse("code", "a.b", "@timestamp").unwrap();
        assert_eq!((names.key.as_str(), names.value.as_str(), names.time.as_str()), ("code", "a.b", "@timestamp"));
        assert_eq!(places, Places::default(), "flat names are read as ever");
        let (_, places) = Places::parse("/a~1b/c~0d", "$.trades[0][2].price", "/t").unwrap();
        let steps = |index: usize| places.paths[index].1.iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!((steps(0), steps(1), steps(2)), (vec!["a/b", "c~d"], vec!["trades", "0", "2", "price"], vec!["t"]));
        let (names, places) = Places::parse("kafka:key", "v", "kafka:timestamp").unwrap();
        assert_eq!((places.key, places.time, names.value.as_str()), (Some(BesideKey::Key), true, "v"));
        assert!(places.paths.is_empty() && places.is_beside());
        for (key, value, time) in [
            ("kafka:offset", "v", "t"),
            ("k", "kafka:key", "t"),
            ("k", "v", "kafka:key"),
            ("$.", "v", "t"),
            ("$.a[x]", "v", "t"),
            ("$.a[", "v", "t"),
            ("$.a[[0]", "v", "t"),
            ("$.a[00]", "v", "t"),
            ("$.a[+1]", "v", "t"),
        ] {
            assert!(Places::parse(key, value, time).is_err(), "{key} {value} {time}");
        }
    }
}
