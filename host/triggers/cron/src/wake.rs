//! A stage that is woken beside its schedule.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

/// So many times a stage may be woken at once …
const AT_ONCE: u32 = 5;
/// … and then once in so long: whoever wakes it all the time has it run no more often than this.
const PAUSE: Duration = Duration::from_millis(100);

/// What wakes stages.
#[async_trait]
pub trait Alarm: Send + Sync {
    /// Rings the bell whenever something comes over the channel, and when it is not known whether something did. Never
    /// ends.
    async fn follow(&self, channel: &str, bell: &Notify);
}

/// How often a stage may still be woken.
pub struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    /// All of it.
    pub fn new() -> Self {
        Self { left: AT_ONCE, since: Instant::now() }
    }

    /// Takes one; waits for it where none is left.
    pub async fn take(&mut self) {
        if self.left == 0 {
            tokio::time::sleep_until(self.since + PAUSE).await;
        }
        let gained = u32::try_from(self.since.elapsed().as_millis() / PAUSE.as_millis()).unwrap_or(u32::MAX);
        self.since += PAUSE * gained;
        self.left = self.left.saturating_add(gained).min(AT_ONCE);
        if self.left == AT_ONCE {
            self.since = Instant::now();
        }
        self.left = self.left.saturating_sub(1);
    }
}

impl Default for Allowance {
    fn default() -> Self {
        Self::new()
    }
}
