//! Half-open windows `[start, end)` of event time, aligned to the Unix epoch, UTC.

use crate::time::{EventTime, MICROS_PER_SECOND};

/// Longest window: a year. A longer one is a mistake in the unit.
const WINDOW_SECONDS_MAX: i64 = 366 * 24 * 3600;
/// Most windows that one event may fall into: more is a mistake, and every one is a row.
const WINDOWS_PER_EVENT_MAX: i64 = 1000;

/// Tumbling windows where `slide` = `window`, hopping ones where it is shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    window_seconds: i64,
    slide_seconds: i64,
}

/// Why windows of that shape are refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WindowsError {
    /// The setting `window_seconds`, which is below 1 or above 366 days.
    #[error("window_seconds is {0}: it must be 1 to {WINDOW_SECONDS_MAX}")]
    BadWindow(i64),
    /// The slide is not above 0, is longer than the window, or does not divide it.
    #[error("slide_seconds is {slide}: it must be above 0, at most window_seconds ({window}) and divide it")]
    BadSlide {
        /// The setting `slide_seconds`.
        slide: i64,
        /// The setting `window_seconds`.
        window: i64,
    },
    /// The number of windows that one event would fall into, which is above 1000.
    #[error("an event would fall into {0} windows: at most {WINDOWS_PER_EVENT_MAX}; make slide_seconds longer")]
    TooMany(i64),
}

impl Windows {
    /// # Errors
    /// Unless 0 < slide <= window and window % slide = 0.
    pub fn new(window_seconds: i64, slide_seconds: i64) -> Result<Self, WindowsError> {
        if !(1..=WINDOW_SECONDS_MAX).contains(&window_seconds) {
            return Err(WindowsError::BadWindow(window_seconds));
        }
        let fits = 0 < slide_seconds && slide_seconds <= window_seconds;
        if !fits || window_seconds % slide_seconds != 0 {
            return Err(WindowsError::BadSlide { slide: slide_seconds, window: window_seconds });
        }
        if window_seconds / slide_seconds > WINDOWS_PER_EVENT_MAX {
            return Err(WindowsError::TooMany(window_seconds / slide_seconds));
        }
        Ok(Self { window_seconds, slide_seconds })
    }

    /// A window's length in seconds: 1 to 366 days.
    pub fn window_seconds(&self) -> i64 {
        self.window_seconds
    }

    /// Seconds from one window's start to the next one's: at most a window's length, which they divide.
    pub fn slide_seconds(&self) -> i64 {
        self.slide_seconds
    }

    /// Starts (Unix seconds) of the windows that hold `time`, latest first.
    pub fn starts(&self, time: EventTime) -> impl Iterator<Item = i64> + use<> {
        let seconds = time.0.div_euclid(MICROS_PER_SECOND);
        let latest = seconds - seconds.rem_euclid(self.slide_seconds);
        let slide = self.slide_seconds;
        (0..self.window_seconds / slide).map(move |back| latest - back * slide)
    }

    /// End (Unix seconds, exclusive) of the window that starts there.
    pub fn end(&self, start_seconds: i64) -> i64 {
        start_seconds + self.window_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(window: i64, slide: i64, micros: i64) -> Vec<i64> {
        Windows::new(window, slide).unwrap().starts(EventTime(micros)).collect()
    }

    #[test]
    fn windows_are_half_open() {
        assert_eq!(starts(60, 60, 59_999_999), vec![0]);
        assert_eq!(starts(60, 60, 60_000_000), vec![60]);
    }

    #[test]
    fn times_before_the_epoch_fall_into_the_window_below() {
        assert_eq!(starts(60, 60, -1), vec![-60]);
    }

    #[test]
    fn an_event_is_in_each_hopping_window_that_holds_it() {
        assert_eq!(starts(3600, 900, 3_700_000_000), vec![3600, 2700, 1800, 900]);
    }

    #[test]
    fn a_slide_that_does_not_divide_the_window_is_refused() {
        for (window, slide) in [(60, 0), (60, -1), (60, 61), (60, 7)] {
            assert_eq!(Windows::new(window, slide), Err(WindowsError::BadSlide { slide, window }));
        }
        assert_eq!(Windows::new(0, 1), Err(WindowsError::BadWindow(0)));
        assert_eq!(Windows::new(3600, 1), Err(WindowsError::TooMany(3600)));
    }
}
