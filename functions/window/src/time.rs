//! Event times and the formats that they are written in.

use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;

use crate::civil::Civil;

/// Microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(pub i64);

/// What a Unix second is multiplied by to be an [`EventTime`].
pub const MICROS_PER_SECOND: i64 = 1_000_000;

/// 0001-01-01 and where jiff's timestamps end, a day before the year 10000: inside what PostgreSQL's
/// `timestamp` holds, and the same for every format and zone.
const EARLIEST: EventTime = EventTime(-62_135_596_800 * MICROS_PER_SECOND);
const END: EventTime = EventTime(253_402_207_201 * MICROS_PER_SECOND);

impl EventTime {
    /// `None` when the time is outside the years 1 to 9999.
    pub fn checked(micros: i128) -> Option<Self> {
        let time = Self(i64::try_from(micros).ok()?);
        (EARLIEST <= time && time < END).then_some(time)
    }
}

/// How a time is written in a record.
#[derive(Clone, Debug)]
pub enum TimeFormat {
    /// `2023-11-19 20:31:15`, the reference's own, read without a general parser; in UTC where there is
    /// no zone.
    DateTime(Option<TimeZone>),
    /// Any other strftime pattern; the zone serves where the pattern has no offset.
    Strftime(String, TimeZone),
    /// A string with an offset of its own, such as `2023-11-19T20:31:15Z`: the setting `time_zone` is not used.
    Rfc3339,
    /// A number of seconds since the Unix epoch; a fraction is rounded down to microseconds.
    UnixSeconds,
    /// A number of milliseconds since the Unix epoch; a fraction is rounded down to microseconds.
    UnixMillis,
    /// A number of microseconds since the Unix epoch.
    UnixMicros,
    /// A number of nanoseconds since the Unix epoch, rounded down to microseconds.
    UnixNanos,
    /// A number since the Unix epoch whose size tells the unit: seconds below 10^11, milliseconds below 10^14,
    /// microseconds below 10^17, nanoseconds.
    Unix,
    /// Such a number; or a text of RFC 3339, or the same without an offset, in this zone.
    Auto(TimeZone),
}

/// Why a format cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// The setting `time_zone`, which the time zone database does not have.
    #[error("time_zone {0:?} is not a known IANA time zone")]
    UnknownZone(String),
    /// The setting `time_format`, which does not read back a date and a time that it wrote, and the reason.
    #[error(
        "time_format {0:?} is neither auto, rfc3339, unix, unix_seconds, unix_millis, unix_micros, unix_nanos nor a strftime \
         pattern: {1}"
    )]
    BadPattern(String, String),
}

/// Why a record's time cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeError {
    /// The text does not fit the format, or the format wants a number in the place of a text or the reverse.
    Unreadable,
    /// The time is outside the years 1 to 9999.
    OutOfRange,
}

const REFERENCE_PATTERN: &str = "%Y-%m-%d %H:%M:%S";

impl TimeFormat {
    /// Reads the settings `time_format` and `time_zone`.
    ///
    /// # Errors
    /// When the zone is unknown or the pattern cannot tell a date and a time.
    pub fn new(format: &str, zone: &str) -> Result<Self, FormatError> {
        let time_zone = || TimeZone::get(zone).map_err(|_| FormatError::UnknownZone(zone.to_owned()));
        Ok(match format {
            "rfc3339" => Self::Rfc3339,
            "unix_seconds" => Self::UnixSeconds,
            "unix_millis" => Self::UnixMillis,
            "unix_micros" => Self::UnixMicros,
            "unix_nanos" => Self::UnixNanos,
            "unix" => Self::Unix,
            "auto" => Self::Auto(time_zone()?),
            REFERENCE_PATTERN => Self::DateTime(Some(time_zone()?).filter(|zone| *zone != TimeZone::UTC)),
            pattern => {
                check_pattern(pattern)?;
                Self::Strftime(pattern.to_owned(), time_zone()?)
            }
        })
    }

    /// Whether the field may hold a JSON number.
    pub fn reads_numbers(&self) -> bool {
        match self {
            Self::DateTime(_) | Self::Strftime(..) | Self::Rfc3339 => false,
            Self::UnixSeconds | Self::UnixMillis | Self::UnixMicros | Self::UnixNanos | Self::Unix | Self::Auto(_) => {
                true
            }
        }
    }

    /// Whether the field may hold a JSON string that is no number.
    pub fn reads_texts(&self) -> bool {
        !self.reads_numbers() || matches!(self, Self::Auto(_))
    }

    /// How many microseconds a number of this size stands for, as a fraction: those that it is multiplied and divided by.
    fn unit(&self, size: f64) -> Option<(i64, i64)> {
        const SECONDS: (i64, i64) = (MICROS_PER_SECOND, 1);
        const MILLIS: (i64, i64) = (1_000, 1);
        const MICROS: (i64, i64) = (1, 1);
        const NANOS: (i64, i64) = (1, 1_000);
        Some(match self {
            Self::UnixSeconds => SECONDS,
            Self::UnixMillis => MILLIS,
            Self::UnixMicros => MICROS,
            Self::Unix | Self::Auto(_) if size < 1e11 => SECONDS,
            Self::Unix | Self::Auto(_) if size < 1e14 => MILLIS,
            Self::Unix | Self::Auto(_) if size < 1e17 => MICROS,
            Self::UnixNanos | Self::Unix | Self::Auto(_) => NANOS,
            Self::DateTime(_) | Self::Strftime(..) | Self::Rfc3339 => return None,
        })
    }

    /// Reads a time that stands in a JSON string.
    ///
    /// # Errors
    /// When the text does not fit the format or the time is out of range.
    pub fn parse_text(&self, text: &[u8]) -> Result<EventTime, TimeError> {
        match self {
            Self::DateTime(zone) => {
                let civil = text.try_into().ok().and_then(Civil::read).ok_or(TimeError::Unreadable)?;
                match zone {
                    None => checked(i128::from(civil.utc_seconds() * MICROS_PER_SECOND)),
                    Some(zone) => in_zone(civil.date_time().ok_or(TimeError::Unreadable)?, zone),
                }
            }
            Self::Strftime(pattern, zone) => parse_strftime(pattern, utf8(text)?, zone),
            Self::Rfc3339 => {
                let timestamp: jiff::Timestamp = utf8(text)?.parse().map_err(|_| TimeError::Unreadable)?;
                checked(i128::from(timestamp.as_microsecond()))
            }
            Self::Auto(zone) => match text.try_into().ok().and_then(Civil::read) {
                Some(civil) if *zone == TimeZone::UTC => checked(i128::from(civil.utc_seconds() * MICROS_PER_SECOND)),
                Some(civil) => in_zone(civil.date_time().ok_or(TimeError::Unreadable)?, zone),
                None => {
                    let text = utf8(text)?;
                    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
                        return checked(i128::from(timestamp.as_microsecond()));
                    }
                    // A zone of its own would not be heeded.
                    if text.contains('[') {
                        return Err(TimeError::Unreadable);
                    }
                    in_zone(text.parse().map_err(|_| TimeError::Unreadable)?, zone)
                }
            },
            Self::UnixSeconds | Self::UnixMillis | Self::UnixMicros | Self::UnixNanos | Self::Unix => {
                Err(TimeError::Unreadable)
            }
        }
    }

    /// Reads a time that stands in a JSON integer.
    ///
    /// # Errors
    /// When the format is not numeric or the time is out of range.
    #[expect(clippy::cast_precision_loss, reason = "only the size is looked at")]
    pub fn parse_integer(&self, number: i64) -> Result<EventTime, TimeError> {
        let (times, by) = self.unit((number as f64).abs()).ok_or(TimeError::Unreadable)?;
        checked((i128::from(number) * i128::from(times)).div_euclid(i128::from(by)))
    }

    /// Reads a time that stands in a JSON number with a fraction.
    ///
    /// # Errors
    /// When the format is not numeric or the time is out of range.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "the range is checked first, and units are small"
    )]
    pub fn parse_float(&self, number: f64) -> Result<EventTime, TimeError> {
        let (times, by) = self.unit(number.abs()).ok_or(TimeError::Unreadable)?;
        let micros = number * times as f64 / by as f64;
        if micros.is_finite() && micros.abs() < 1e18 {
            checked(micros.floor() as i128)
        } else {
            Err(TimeError::OutOfRange)
        }
    }
}

fn utf8(text: &[u8]) -> Result<&str, TimeError> {
    std::str::from_utf8(text).map_err(|_| TimeError::Unreadable)
}

fn checked(micros: i128) -> Result<EventTime, TimeError> {
    EventTime::checked(micros).ok_or(TimeError::OutOfRange)
}

/// A pattern serves when it reads back what it writes, down to the day.
fn check_pattern(pattern: &str) -> Result<(), FormatError> {
    let bad = |why: String| FormatError::BadPattern(pattern.to_owned(), why);
    let sample = jiff::Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
    let written = jiff::fmt::strtime::format(pattern, &sample).map_err(|e| bad(e.to_string()))?;
    parse_strftime(pattern, &written, &TimeZone::UTC)
        .map(|_| ())
        .map_err(|_| bad("it does not name a year, month, day and time".to_owned()))
}

fn parse_strftime(pattern: &str, text: &str, zone: &TimeZone) -> Result<EventTime, TimeError> {
    let parts = BrokenDownTime::parse(pattern, text).map_err(|_| TimeError::Unreadable)?;
    if let Ok(timestamp) = parts.to_timestamp() {
        return checked(i128::from(timestamp.as_microsecond()));
    }
    let civil = parts
        .to_datetime()
        .or_else(|_| parts.to_date().map(|date| date.to_datetime(jiff::civil::Time::midnight())))
        .map_err(|_| TimeError::Unreadable)?;
    in_zone(civil, zone)
}

/// An ambiguous local time (clocks set back) is the earlier one, a skipped one moves forward:
/// RFC 5545's rule, which is jiff's default.
fn in_zone(civil: DateTime, zone: &TimeZone) -> Result<EventTime, TimeError> {
    let timestamp = zone.to_timestamp(civil).map_err(|_| TimeError::OutOfRange)?;
    checked(i128::from(timestamp.as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE_TIME: i64 = 1_700_425_875_000_000; // 2023-11-19 20:31:15 UTC

    fn format(format: &str, zone: &str) -> TimeFormat {
        TimeFormat::new(format, zone).unwrap()
    }

    #[test]
    fn the_reference_format_is_utc_unless_a_zone_is_given() {
        let text = "2023-11-19 20:31:15";
        let utc = format(REFERENCE_PATTERN, "UTC").parse_text(text.as_bytes());
        assert_eq!(utc, Ok(EventTime(REFERENCE_TIME)));
        let tehran = format(REFERENCE_PATTERN, "Asia/Tehran").parse_text(text.as_bytes());
        assert_eq!(tehran, Ok(EventTime(REFERENCE_TIME - 12_600 * MICROS_PER_SECOND)));
    }

    #[test]
    fn the_fast_path_agrees_with_the_general_one() {
        let zone = TimeZone::UTC;
        for text in [
            "1970-01-01 00:00:00",
            "2024-02-29 23:59:59",
            "9999-12-31 23:59:59",
            "9999-12-30 22:00:00",
            "0001-01-01 00:00:00",
        ] {
            assert_eq!(
                format(REFERENCE_PATTERN, "UTC").parse_text(text.as_bytes()),
                parse_strftime(REFERENCE_PATTERN, text, &zone),
                "{text}"
            );
        }
    }

    #[test]
    fn broken_times_are_unreadable() {
        let reference = format(REFERENCE_PATTERN, "UTC");
        for text in
            ["", "2023-11-19", "2023-11-19T20:31:15", "2023-02-30 00:00:00", "2023-11-19 24:00:00", "２023-11-19 20:31"]
        {
            assert_eq!(reference.parse_text(text.as_bytes()), Err(TimeError::Unreadable), "{text}");
        }
    }

    #[test]
    fn every_format_reads_the_same_instant() {
        let expected = Ok(EventTime(REFERENCE_TIME));
        assert_eq!(format("rfc3339", "UTC").parse_text(b"2023-11-19T20:31:15Z"), expected);
        assert_eq!(format("rfc3339", "UTC").parse_text(b"2023-11-20T00:01:15+03:30"), expected);
        assert_eq!(format("unix_seconds", "UTC").parse_integer(1_700_425_875), expected);
        assert_eq!(format("unix_millis", "UTC").parse_integer(1_700_425_875_000), expected);
        assert_eq!(format("unix_seconds", "UTC").parse_float(1_700_425_875.0), expected);
        assert_eq!(format("%d/%m/%Y %H.%M.%S", "UTC").parse_text(b"19/11/2023 20.31.15"), expected);
        assert_eq!(format("%Y-%m-%dT%H:%M:%S%z", "UTC").parse_text(b"2023-11-20T00:01:15+0330"), expected);
    }

    #[test]
    fn the_size_of_a_number_tells_its_unit_and_a_text_its_form() {
        let expected = Ok(EventTime(REFERENCE_TIME));
        for name in ["unix", "auto"] {
            let format = format(name, "UTC");
            for number in [1_700_425_875, 1_700_425_875_000, 1_700_425_875_000_000, 1_700_425_875_000_000_999] {
                assert_eq!(format.parse_integer(number), expected, "{name} {number}");
            }
            assert_eq!(format.parse_float(1_700_425_875.25), Ok(EventTime(REFERENCE_TIME + 250_000)));
        }
        assert_eq!(format("unix_micros", "UTC").parse_integer(REFERENCE_TIME), expected);
        assert_eq!(format("unix_nanos", "UTC").parse_integer(-1), Ok(EventTime(-1)), "rounded down");
        let tehran = format("auto", "Asia/Tehran");
        for text in ["2023-11-20 00:01:15", "2023-11-20T00:01:15", "2023-11-19T20:31:15Z", "2023-11-19 21:31:15+01:00"]
        {
            assert_eq!(tehran.parse_text(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(format("auto", "UTC").parse_text(b"2023-11-19 20:31:15.5"), Ok(EventTime(REFERENCE_TIME + 500_000)));
        for text in ["soon", "2023-11-19T20:31:15[America/New_York]"] {
            assert_eq!(tehran.parse_text(text.as_bytes()), Err(TimeError::Unreadable), "{text}");
        }
        assert!(tehran.reads_texts() && tehran.reads_numbers() && !format("unix", "UTC").reads_texts());
    }

    #[test]
    fn clocks_set_back_and_forward_do_not_fail() {
        let berlin = format(REFERENCE_PATTERN, "Europe/Berlin");
        // 02:30 happens twice on 2023-10-29: the first one counts (+02:00).
        assert_eq!(berlin.parse_text(b"2023-10-29 02:30:00"), Ok(EventTime(1_698_539_400 * MICROS_PER_SECOND)));
        // 02:30 does not happen on 2023-03-26: it is read as 03:30 (+02:00).
        assert_eq!(berlin.parse_text(b"2023-03-26 02:30:00"), Ok(EventTime(1_679_794_200 * MICROS_PER_SECOND)));
    }

    #[test]
    fn absurd_numbers_are_out_of_range() {
        assert_eq!(format("unix_seconds", "UTC").parse_integer(i64::MAX), Err(TimeError::OutOfRange));
        assert_eq!(format("unix_seconds", "UTC").parse_float(1e300), Err(TimeError::OutOfRange));
        assert_eq!(format("unix_millis", "UTC").parse_integer(253_402_300_800_000), Err(TimeError::OutOfRange));
    }

    #[test]
    fn a_format_that_cannot_tell_a_time_is_refused() {
        assert!(matches!(TimeFormat::new("%H:%M", "UTC"), Err(FormatError::BadPattern(..))));
        assert!(matches!(TimeFormat::new("%Q%Q", "UTC"), Err(FormatError::BadPattern(..))));
        assert!(matches!(TimeFormat::new("%Y-%m-%d %H:%M:%S", "Mars/Base"), Err(FormatError::UnknownZone(_))));
    }
}
