//! The fields of a record by a general parser, which knows all of JSON and says what is wrong.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::fields::{Field, FieldNames, Fields, Scalar};
use crate::reject::Reject;

/// The named fields of a record.
///
/// # Errors
/// When the bytes are not UTF-8, not JSON, or JSON but not an object.
#[cold]
pub(crate) fn parse<'a>(names: &FieldNames, bytes: &'a [u8]) -> Result<Fields<'a>, Reject> {
    let text = std::str::from_utf8(bytes).map_err(|_| Reject::NotUtf8)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let found = FieldsSeed(names).deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    match found {
        Ok(Some(fields)) => Ok(fields),
        Ok(None) => Err(Reject::NotAnObject),
        Err(error) => Err(reject(&error)),
    }
}

/// Why a text is not read.
pub(crate) fn reject(error: &serde_json::Error) -> Reject {
    // It tells a number beyond f64 only by its text.
    if error.to_string().starts_with("number out of range") { Reject::ValueNotFinite } else { Reject::NotJson }
}

/// Picks the named fields out of an object and ignores all others; the last of a repeated name
/// counts. `None` when the JSON is not an object.
struct FieldsSeed<'s>(&'s FieldNames);

impl<'de> DeserializeSeed<'de> for FieldsSeed<'_> {
    type Value = Option<Fields<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// The visits of everything that is not the kind of value looked for.
macro_rules! visit_others {
    ($de:lifetime, $value:expr => $($visit:ident($type:ty)),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Self::Value, E> { Ok($value) })*

        fn visit_seq<A: SeqAccess<$de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            Ok($value)
        }
    };
}

impl<'de> Visitor<'de> for FieldsSeed<'_> {
    type Value = Option<Fields<'de>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key_seed(Name(self.0))? {
            let field = match name {
                None => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                Some(Field::Key) => &mut fields.key,
                Some(Field::Value) => &mut fields.value,
                Some(Field::Time) => &mut fields.time,
            };
            *field = map.next_value_seed(ScalarSeed)?;
        }
        Ok(Some(fields))
    }

    visit_others!('de, None => visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// A field's name, compared without being copied.
struct Name<'s>(&'s FieldNames);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<Field>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<Field>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.field(name.as_bytes()))
    }
}

struct ScalarSeed;

impl<'de> DeserializeSeed<'de> for ScalarSeed {
    type Value = Scalar<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarSeed {
    type Value = Scalar<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(text.as_bytes())))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(text.as_bytes().to_owned())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(number).map_or(Scalar::Unsigned(number), Scalar::Integer))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Float(number))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    visit_others!('de, Scalar::Other =>);
}
