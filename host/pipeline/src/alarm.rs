//! Notifications of PostgreSQL's that wake stages (LISTEN, NOTIFY).

use std::time::Duration;

use async_trait::async_trait;
use exagg_clients::database::Database;
use exagg_trigger_cron::wake::Alarm;
use tokio::sync::Notify;

/// Pauses between tries to listen again.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Listens in a database, over a connection of its own. Behind a pooler of transactions nothing is heard: then the stage
/// has its schedule alone.
pub struct Notifications(Database);

impl Notifications {
    /// Of this database.
    pub fn new(database: Database) -> Self {
        Self(database)
    }
}

#[async_trait]
impl Alarm for Notifications {
    async fn follow(&self, channel: &str, bell: &Notify) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.0.listen(channel).await {
                Ok(mut notifications) => {
                    pause = PAUSE_MIN;
                    // What came before is not known.
                    bell.notify_one();
                    while notifications.next().await {
                        bell.notify_one();
                    }
                }
                Err(error) => tracing::debug!("nobody is woken by the channel {channel}: {error:#}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
