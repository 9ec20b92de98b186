//! `2023-11-19 20:31:15`: a day and a time of day, in no zone yet.

use jiff::civil::DateTime;

const SHAPE: [u8; 19] = *b"0000-00-00 00:00:00";
const SECONDS_PER_DAY: i64 = 86_400;
/// The Gregorian calendar repeats itself after so many years, and they have so many days.
const CYCLE_YEARS: u32 = 400;
const CYCLE_DAYS: i64 = 146_097;
/// From the 1st of March of the year 0 to the 1st of January of 1970.
const DAYS_BEFORE_EPOCH: i64 = 719_468;

/// A day that there is, of the years 0 to 9999, and a second of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Civil {
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl Civil {
    pub(crate) fn read(text: &[u8; 19]) -> Option<Self> {
        // All of them: without a branch a byte they are compared many at a time.
        let is_shaped = text.iter().zip(SHAPE).fold(true, |is_shaped, (byte, shape)| {
            is_shaped & if shape == b'0' { byte.is_ascii_digit() } else { *byte == shape }
        });
        if !is_shaped {
            return None;
        }
        let two = |at: usize| u32::from(text[at] - b'0') * 10 + u32::from(text[at + 1] - b'0');
        let civil = Self {
            year: two(0) * 100 + two(2),
            month: two(5),
            day: two(8),
            hour: two(11),
            minute: two(14),
            second: two(17),
        };
        let exists = (1..=12).contains(&civil.month)
            && (1..=civil.days_of_month()).contains(&civil.day)
            && civil.hour < 24
            && civil.minute < 60
            && civil.second < 60;
        exists.then_some(civil)
    }

    fn days_of_month(&self) -> u32 {
        let is_leap = self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        match self.month {
            2 => 28 + u32::from(is_leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// Unix seconds, where it is in UTC.
    pub(crate) fn utc_seconds(&self) -> i64 {
        // Years that begin in March end with the leap day; one cycle later none is negative.
        let (year, month) = if self.month > 2 {
            (self.year + CYCLE_YEARS, self.month - 3)
        } else {
            (self.year + CYCLE_YEARS - 1, self.month + 9)
        };
        let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + self.day - 1;
        let second_of_day = (self.hour * 60 + self.minute) * 60 + self.second;
        (i64::from(days) - CYCLE_DAYS - DAYS_BEFORE_EPOCH) * SECONDS_PER_DAY + i64::from(second_of_day)
    }

    pub(crate) fn date_time(&self) -> Option<DateTime> {
        let small = |number| i8::try_from(number).ok();
        DateTime::new(
            i16::try_from(self.year).ok()?,
            small(self.month)?,
            small(self.day)?,
            small(self.hour)?,
            small(self.minute)?,
            small(self.second)?,
            0,
        )
        .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    /// jiff's own reading, which takes a leap second for the one before it and ends within the year 9999.
    fn expected(text: &str) -> Option<i64> {
        let civil: DateTime = jiff::fmt::strtime::parse("%Y-%m-%d %H:%M:%S", text).ok()?.to_datetime().ok()?;
        Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
    }

    proptest! {
        #[test]
        fn it_is_the_second_that_jiff_reads(text in "[0-8][0-9]{3}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-6][0-9]:[0-5][0-9]") {
            let civil = Civil::read(text.as_bytes().try_into().unwrap());
            prop_assert_eq!(civil.map(|civil| civil.utc_seconds()), expected(&text), "{}", text);
            let date_time = civil.and_then(|civil| civil.date_time());
            prop_assert_eq!(date_time.map(|it| it.to_string().replace('T', " ")), civil.map(|_| text));
        }

        #[test]
        fn other_shapes_are_not_read(at in 0..19usize, byte in any::<u8>()) {
            let mut text = *b"2023-11-14 22:13:10";
            let usual = if SHAPE[at] == b'0' { byte.is_ascii_digit() } else { byte == SHAPE[at] };
            text[at] = byte;
            prop_assume!(!usual);
            prop_assert!(Civil::read(&text).is_none());
        }
    }

    #[test]
    fn every_day_is_one_after_the_day_before() {
        let (mut expected, mut days) = (-11_676_096_000, 0);
        for year in 1_600..2_400 {
            for month in 1..=12 {
                for day in 1..=31 {
                    let text = format!("{year:04}-{month:02}-{day:02} 00:00:00");
                    if let Some(civil) = Civil::read(text.as_bytes().try_into().unwrap()) {
                        assert_eq!(civil.utc_seconds(), expected, "{text}");
                        (expected, days) = (expected + SECONDS_PER_DAY, days + 1);
                    }
                }
            }
        }
        assert_eq!(days, 2 * CYCLE_DAYS);
    }
}
