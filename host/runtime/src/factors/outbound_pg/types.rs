//! PostgreSQL's values and the interface's.

use std::error::Error;
use std::fmt::Write;

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use tokio_postgres::Row;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::factors::bindings::spin::postgres4_2_0::postgres as v4;

type SqlError = Box<dyn Error + Sync + Send>;

/// A value in PostgreSQL's text form; the server reads it as the type it is sent as.
#[derive(Debug)]
struct Text(String);

impl ToSql for Text {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, SqlError> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// NULL of a type that the server infers.
#[derive(Debug)]
struct Null;

impl ToSql for Null {
    fn to_sql(&self, _: &Type, _: &mut BytesMut) -> Result<IsNull, SqlError> {
        Ok(IsNull::Yes)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A value and the type it is sent as.
pub type Parameter = (Box<dyn ToSql + Sync + Send>, Type);

/// A parameter of a guest's that is no value of its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadParameter {
    /// No such day, as the 30th of February.
    #[error("{year}-{month}-{day} is not a date")]
    Date { year: i32, month: u8, day: u8 },
    /// No such time of a day.
    #[error("{hour}:{minute}:{second} and {nano} ns is not a time")]
    Time { hour: u8, minute: u8, second: u8, nano: u32 },
    /// The certificates that a guest gives to verify its server by are parsed by the host.
    #[error("the certificates of authorities are longer than {0} bytes")]
    Authorities(usize),
    /// JSON is text, and text is UTF-8.
    #[error("a jsonb parameter is not UTF-8")]
    JsonNotUtf8,
}

/// A parameter of the interface to one of PostgreSQL.
pub fn parameter(value: &v4::ParameterValue) -> Result<Parameter, BadParameter> {
    use v4::ParameterValue as P;
    fn text(text: String, ty: Type) -> Parameter {
        (Box::new(Text(text)), ty)
    }
    Ok(match value {
        P::Boolean(value) => (Box::new(*value), Type::BOOL),
        P::Int8(value) => (Box::new(*value), Type::CHAR),
        P::Int16(value) => (Box::new(*value), Type::INT2),
        P::Int32(value) => (Box::new(*value), Type::INT4),
        P::Int64(value) | P::Timestamp(value) => (Box::new(*value), Type::INT8),
        P::Floating32(value) => (Box::new(*value), Type::FLOAT4),
        P::Floating64(value) => (Box::new(*value), Type::FLOAT8),
        P::Str(value) => (Box::new(value.clone()), Type::TEXT),
        P::Binary(value) => (Box::new(value.clone()), Type::BYTEA),
        P::Date(date) => (Box::new(naive_date(*date)?), Type::DATE),
        P::Time(time) => (Box::new(naive_time(*time)?), Type::TIME),
        P::Datetime((year, month, day, hour, minute, second, nano)) => {
            let date = naive_date((*year, *month, *day))?;
            (Box::new(date.and_time(naive_time((*hour, *minute, *second, *nano))?)), Type::TIMESTAMP)
        }
        P::Uuid(value) => text(value.clone(), Type::UUID),
        P::Jsonb(value) => text(utf8(value)?, Type::JSONB),
        P::Decimal(value) => text(value.clone(), Type::NUMERIC),
        P::RangeInt32((lower, upper)) => text(range(lower.as_ref(), upper.as_ref()), Type::INT4_RANGE),
        P::RangeInt64((lower, upper)) => text(range(lower.as_ref(), upper.as_ref()), Type::INT8_RANGE),
        P::RangeDecimal((lower, upper)) => text(range(lower.as_ref(), upper.as_ref()), Type::NUM_RANGE),
        P::ArrayInt32(values) => (Box::new(values.clone()), Type::INT4_ARRAY),
        P::ArrayInt64(values) => (Box::new(values.clone()), Type::INT8_ARRAY),
        P::ArrayDecimal(values) => text(array(values), Type::NUMERIC_ARRAY),
        P::ArrayStr(values) => (Box::new(values.clone()), Type::TEXT_ARRAY),
        P::Interval(v4::Interval { micros, days, months }) => {
            text(format!("{months} months {days} days {micros} microseconds"), Type::INTERVAL)
        }
        P::DbNull => (Box::new(Null), Type::UNKNOWN),
    })
}

fn utf8(bytes: &[u8]) -> Result<String, BadParameter> {
    String::from_utf8(bytes.to_vec()).map_err(|_| BadParameter::JsonNotUtf8)
}

fn naive_date((year, month, day): (i32, u8, u8)) -> Result<NaiveDate, BadParameter> {
    NaiveDate::from_ymd_opt(year, month.into(), day.into()).ok_or(BadParameter::Date { year, month, day })
}

fn naive_time((hour, minute, second, nano): (u8, u8, u8, u32)) -> Result<NaiveTime, BadParameter> {
    NaiveTime::from_hms_nano_opt(hour.into(), minute.into(), second.into(), nano).ok_or(BadParameter::Time {
        hour,
        minute,
        second,
        nano,
    })
}

type Bound<T> = (T, v4::RangeBoundKind);

fn range<T: ToString>(lower: Option<&Bound<T>>, upper: Option<&Bound<T>>) -> String {
    let side = |bound: Option<&Bound<T>>, inclusive, exclusive| match bound {
        None => (exclusive, String::new()),
        Some((value, v4::RangeBoundKind::Inclusive)) => (inclusive, quoted(&value.to_string())),
        Some((value, v4::RangeBoundKind::Exclusive)) => (exclusive, quoted(&value.to_string())),
    };
    let (open, lower) = side(lower, '[', '(');
    let (close, upper) = side(upper, ']', ')');
    format!("{open}{lower},{upper}{close}")
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn array(values: &[Option<String>]) -> String {
    let mut text = String::from("{");
    for (index, value) in values.iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        let value = value.as_deref().map_or_else(|| "NULL".to_owned(), quoted);
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{value}");
    }
    text + "}"
}

/// The columns of a row.
pub fn columns(row: &Row) -> Vec<v4::Column> {
    row.columns()
        .iter()
        .map(|column| v4::Column { name: column.name().to_owned(), data_type: data_type(column.type_()) })
        .collect()
}

fn data_type(ty: &Type) -> v4::DbDataType {
    use v4::DbDataType as D;
    match *ty {
        Type::BOOL => D::Boolean,
        Type::CHAR => D::Int8,
        Type::INT2 => D::Int16,
        Type::INT4 => D::Int32,
        Type::INT8 => D::Int64,
        Type::FLOAT4 => D::Floating32,
        Type::FLOAT8 => D::Floating64,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => D::Str,
        Type::BYTEA => D::Binary,
        Type::DATE => D::Date,
        Type::TIME => D::Time,
        Type::TIMESTAMP | Type::TIMESTAMPTZ => D::Datetime,
        Type::UUID => D::Uuid,
        Type::JSON | Type::JSONB => D::Jsonb,
        Type::NUMERIC => D::Decimal,
        Type::INT4_RANGE => D::RangeInt32,
        Type::INT8_RANGE => D::RangeInt64,
        Type::NUM_RANGE => D::RangeDecimal,
        Type::INT4_ARRAY => D::ArrayInt32,
        Type::INT8_ARRAY => D::ArrayInt64,
        Type::NUMERIC_ARRAY => D::ArrayDecimal,
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY => D::ArrayStr,
        Type::INTERVAL => D::Interval,
        _ => D::Other(ty.name().to_owned()),
    }
}

/// One value of a row.
pub fn value(row: &Row, index: usize) -> Result<v4::DbValue, String> {
    use v4::DbValue as V;
    fn get<'r, T: FromSql<'r>>(row: &'r Row, index: usize, wrap: impl Fn(T) -> V) -> Result<V, String> {
        let value: Option<T> = row.try_get(index).map_err(|error| exagg_clients::postgres::describe(&error))?;
        Ok(value.map_or(V::DbNull, wrap))
    }
    let ty = row.columns()[index].type_();
    match *ty {
        Type::BOOL => get(row, index, V::Boolean),
        Type::CHAR => get(row, index, V::Int8),
        Type::INT2 => get(row, index, V::Int16),
        Type::INT4 => get(row, index, V::Int32),
        Type::INT8 => get(row, index, V::Int64),
        Type::FLOAT4 => get(row, index, V::Floating32),
        Type::FLOAT8 => get(row, index, V::Floating64),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => get(row, index, V::Str),
        Type::BYTEA => get(row, index, V::Binary),
        Type::DATE => get(row, index, |date: NaiveDate| V::Date(date_parts(date))),
        Type::TIME => get(row, index, |time: NaiveTime| V::Time(time_parts(time))),
        Type::TIMESTAMP => get(row, index, datetime),
        Type::TIMESTAMPTZ => get(row, index, |time: chrono::DateTime<chrono::Utc>| datetime(time.naive_utc())),
        Type::UUID => get(row, index, |uuid: uuid::Uuid| V::Uuid(uuid.to_string())),
        Type::JSON => get(row, index, |Raw(bytes)| V::Jsonb(bytes.to_vec())),
        // One byte of version stands before the text.
        Type::JSONB => get(row, index, |Raw(bytes)| V::Jsonb(bytes.get(1..).unwrap_or_default().to_vec())),
        Type::NUMERIC => get(row, index, |value: rust_decimal::Decimal| V::Decimal(value.to_string())),
        Type::INT4_ARRAY => get(row, index, V::ArrayInt32),
        Type::INT8_ARRAY => get(row, index, V::ArrayInt64),
        Type::NUMERIC_ARRAY => get(row, index, |values: Vec<Option<rust_decimal::Decimal>>| {
            V::ArrayDecimal(values.into_iter().map(|value| value.map(|value| value.to_string())).collect())
        }),
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY => get(row, index, V::ArrayStr),
        Type::INTERVAL => get(row, index, |Interval(interval)| V::Interval(interval)),
        Type::INT4_RANGE => get(row, index, |Range((lower, upper)): Range<i32>| V::RangeInt32((lower, upper))),
        Type::INT8_RANGE => get(row, index, |Range((lower, upper)): Range<i64>| V::RangeInt64((lower, upper))),
        Type::NUM_RANGE => get(row, index, |Range((lower, upper)): Range<rust_decimal::Decimal>| {
            let text =
                |bound: Option<Bound<rust_decimal::Decimal>>| bound.map(|(value, kind)| (value.to_string(), kind));
            V::RangeDecimal((text(lower), text(upper)))
        }),
        _ => get(row, index, |Raw(bytes)| V::Unsupported(bytes.to_vec())),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "months to seconds are below 100")]
fn small(number: u32) -> u8 {
    number as u8
}

fn date_parts(date: NaiveDate) -> (i32, u8, u8) {
    (date.year(), small(date.month()), small(date.day()))
}

fn time_parts(time: NaiveTime) -> (u8, u8, u8, u32) {
    (small(time.hour()), small(time.minute()), small(time.second()), time.nanosecond())
}

fn datetime(time: NaiveDateTime) -> v4::DbValue {
    let (year, month, day) = date_parts(time.date());
    let (hour, minute, second, nano) = time_parts(time.time());
    v4::DbValue::Datetime((year, month, day, hour, minute, second, nano))
}

/// The bytes as they came.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, SqlError> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Binary form: microseconds, days, months.
struct Interval(v4::Interval);

impl<'a> FromSql<'a> for Interval {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, SqlError> {
        let (micros, rest) = raw.split_first_chunk::<8>().ok_or("an interval is 16 bytes")?;
        let (days, rest) = rest.split_first_chunk::<4>().ok_or("an interval is 16 bytes")?;
        let months = rest.first_chunk::<4>().ok_or("an interval is 16 bytes")?;
        Ok(Self(v4::Interval {
            micros: i64::from_be_bytes(*micros),
            days: i32::from_be_bytes(*days),
            months: i32::from_be_bytes(*months),
        }))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::INTERVAL
    }
}

/// Binary form: a byte of flags, then each bound that there is with its length.
struct Range<T>((Option<Bound<T>>, Option<Bound<T>>));

impl<'a, T: FromSql<'a>> FromSql<'a> for Range<T> {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, SqlError> {
        const LOWER_INCLUSIVE: u8 = 0x02;
        const UPPER_INCLUSIVE: u8 = 0x04;
        const LOWER_INFINITE: u8 = 0x08;
        const UPPER_INFINITE: u8 = 0x10;
        let element = match *ty {
            Type::INT4_RANGE => Type::INT4,
            Type::INT8_RANGE => Type::INT8,
            _ => Type::NUMERIC,
        };
        let (flags, mut rest) = raw.split_first().ok_or("a range has flags")?;
        let mut bound = |infinite: u8, inclusive: u8| -> Result<Option<Bound<T>>, SqlError> {
            if flags & infinite != 0 || rest.is_empty() {
                return Ok(None);
            }
            let (length, tail) = rest.split_first_chunk::<4>().ok_or("a bound has a length")?;
            let length = usize::try_from(i32::from_be_bytes(*length))?;
            let (value, tail) = tail.split_at_checked(length).ok_or("a bound is cut off")?;
            rest = tail;
            let kind =
                if flags & inclusive == 0 { v4::RangeBoundKind::Exclusive } else { v4::RangeBoundKind::Inclusive };
            Ok(Some((T::from_sql(&element, value)?, kind)))
        };
        let lower = bound(LOWER_INFINITE, LOWER_INCLUSIVE)?;
        Ok(Self((lower, bound(UPPER_INFINITE, UPPER_INCLUSIVE)?)))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT4_RANGE | Type::INT8_RANGE | Type::NUM_RANGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_arrays_are_written_as_postgresql_reads_them() {
        use v4::RangeBoundKind::{Exclusive, Inclusive};
        assert_eq!(range(Some(&(1, Inclusive)), Some(&(5, Exclusive))), "[\"1\",\"5\")");
        assert_eq!(range::<i32>(None, Some(&(5, Inclusive))), "(,\"5\"]");
        assert_eq!(array(&[Some("1.5".into()), None, Some("a\"b".into())]), "{\"1.5\",NULL,\"a\\\"b\"}");
    }

    #[test]
    fn what_is_no_date_is_refused() {
        assert!(parameter(&v4::ParameterValue::Date((2023, 2, 30))).is_err());
        assert!(parameter(&v4::ParameterValue::Time((24, 0, 0, 0))).is_err());
        assert!(parameter(&v4::ParameterValue::Jsonb(vec![0xff])).is_err());
    }
}
