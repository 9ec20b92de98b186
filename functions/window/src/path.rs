//! The fields of a record where some of them are deeper than the top level, by a general parser.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::fields::{Field, Fields, Scalar};
use crate::json::reject;
use crate::reject::Reject;

/// A field, and the steps that are left to where it stands.
type Wanted<'s> = (Field, &'s [String]);

/// The fields at these paths. A step is the name of an object's member or the index of an array's; where it leads nowhere,
/// the field is missing. The last of a repeated name counts.
///
/// # Errors
/// When the bytes are not UTF-8, not JSON, or JSON but not an object.
pub(crate) fn parse<'a>(paths: &[(Field, Vec<String>)], bytes: &'a [u8]) -> Result<Fields<'a>, Reject> {
    let text = std::str::from_utf8(bytes).map_err(|_| Reject::NotUtf8)?;
    let wanted: Vec<Wanted<'_>> = paths.iter().map(|(field, steps)| (*field, steps.as_slice())).collect();
    let mut fields = Fields::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let walk = Walk { wanted: &wanted, fields: &mut fields };
    match walk.deserialize(&mut json).and_then(|is_object| json.end().map(|()| is_object)) {
        Ok(true) => Ok(fields),
        Ok(false) => Err(Reject::NotAnObject),
        Err(error) => Err(reject(&error)),
    }
}

/// Goes into one value, and tells whether it is an object.
struct Walk<'s, 'f, 'de> {
    wanted: &'s [Wanted<'s>],
    fields: &'f mut Fields<'de>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_, 'de> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Walk<'_, '_, 'de> {
    /// The value is this: what was to be found deeper is not there.
    fn is(self, scalar: impl Fn() -> Scalar<'de>) -> bool {
        for (field, steps) in self.wanted {
            *self.fields.of(*field) = if steps.is_empty() { scalar() } else { Scalar::Missing };
        }
        false
    }

    /// The value has others in it.
    fn has_others(&mut self) {
        for (field, steps) in self.wanted {
            *self.fields.of(*field) = if steps.is_empty() { Scalar::Other } else { Scalar::Missing };
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_, 'de> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<bool, A::Error> {
        self.has_others();
        while let Some(deeper) = map.next_key_seed(Step(self.wanted))? {
            if deeper.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Walk { wanted: &deeper, fields: &mut *self.fields })?;
            }
        }
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<bool, A::Error> {
        self.has_others();
        for index in 0_usize.. {
            let deeper = behind(self.wanted, &index.to_string());
            let item = if deeper.is_empty() {
                items.next_element::<IgnoredAny>()?.map(|_| ())
            } else {
                items.next_element_seed(Walk { wanted: &deeper, fields: &mut *self.fields })?.map(|_| ())
            };
            if item.is_none() {
                break;
            }
        }
        Ok(false)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<bool, E> {
        Ok(self.is(|| Scalar::Text(Cow::Borrowed(text.as_bytes()))))
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(self.is(|| Scalar::Text(Cow::Owned(text.as_bytes().to_owned()))))
    }

    fn visit_i64<E>(self, number: i64) -> Result<bool, E> {
        Ok(self.is(|| Scalar::Integer(number)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<bool, E> {
        Ok(self.is(|| i64::try_from(number).map_or(Scalar::Unsigned(number), Scalar::Integer)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<bool, E> {
        Ok(self.is(|| Scalar::Float(number)))
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        Ok(self.is(|| Scalar::Bool(value)))
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(self.is(|| Scalar::Null))
    }
}

/// What is wanted behind a member's name, compared without being copied.
struct Step<'s>(&'s [Wanted<'s>]);

impl<'de, 's> DeserializeSeed<'de> for Step<'s> {
    type Value = Vec<Wanted<'s>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'s> Visitor<'_> for Step<'s> {
    type Value = Vec<Wanted<'s>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(behind(self.0, name))
    }
}

fn behind<'s>(wanted: &[Wanted<'s>], step: &str) -> Vec<Wanted<'s>> {
    let deeper = wanted.iter().filter_map(|(field, steps)| match steps {
        [first, rest @ ..] if first == step => Some((*field, rest)),
        _ => None,
    });
    deeper.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(paths: [&str; 3], json: &str) -> Result<String, Reject> {
        let paths = [Field::Key, Field::Value, Field::Time]
            .into_iter()
            .zip(paths)
            .map(|(field, path)| (field, path.split('/').filter(|step| !step.is_empty()).map(str::to_owned).collect()));
        let paths: Vec<_> = paths.collect();
        parse(&paths, json.as_bytes()).map(|fields| format!("{:?} {:?} {:?}", fields.key, fields.value, fields.time))
    }

    #[test]
    fn fields_are_found_where_they_stand_and_nowhere_else() {
        let paths = ["a/id", "a/values/1", "t"];
        let good = r#"{"x":{"id":0},"a":{"id":7,"values":[1,2.5,3],"more":{"id":1}},"t":true}"#;
        assert_eq!(found(paths, good).unwrap(), "Integer(7) Float(2.5) Bool(true)");
        for (json, told) in [
            (r#"{"a":3}"#, "Missing Missing Missing"),
            (r#"{"a":{"id":{},"values":{"1":4}},"t":[]}"#, "Other Integer(4) Other"),
            (r#"{"a":{"values":[1]},"t":null}"#, "Missing Missing Null"),
            (r#"{"a":{"id":1},"a":{"id":2}}"#, "Integer(2) Missing Missing"),
            (r#"{"a":{"id":1},"a":null}"#, "Missing Missing Missing"),
            (r#"{"a":{"id":18446744073709551615}}"#, "Unsigned(18446744073709551615) Missing Missing"),
        ] {
            assert_eq!(found(paths, json).unwrap(), told, "{json}");
        }
        // Two fields of one place, and one within another.
        assert_eq!(found(["a", "a", "a/b"], r#"{"a":{"b":1}}"#).unwrap(), "Other Other Integer(1)");
        assert_eq!(found(["a", "a", "a/b"], r#"{"a":1}"#).unwrap(), "Integer(1) Integer(1) Missing");
        for (json, reject) in
            [("[]", Reject::NotAnObject), ("{", Reject::NotJson), (r#"{"a":1e999}"#, Reject::ValueNotFinite)]
        {
            assert_eq!(found(paths, json).unwrap_err(), reject, "{json}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "{\"a\":".repeat(100_000);
        assert_eq!(found(["a/a", "a", "a"], &deep).unwrap_err(), Reject::NotJson);
    }
}
