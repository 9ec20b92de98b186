//! The clock. Nobody else asks the time of day.

use chrono::{DateTime, Utc};

#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    #[allow(clippy::unused_self, reason = "a clock is asked, not a type")]
    pub fn now(self) -> DateTime<Utc> {
        Utc::now()
    }
}
