//! The three fields of a record that are read, their names and what stands in them.

use std::borrow::Cow;

/// One of the three fields that a schema names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A string: the code that an event is counted under.
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

/// A JSON value as far as it matters here.
#[derive(Debug, Default)]
pub(crate) enum Scalar<'a> {
    #[default]
    Missing,
    Null,
    Text(Cow<'a, [u8]>),
    Integer(i64),
    Float(f64),
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
