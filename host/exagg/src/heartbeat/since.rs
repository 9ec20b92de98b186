//! When a state began. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

/// The states that something is in, by names that tell them apart.
#[derive(Default)]
pub struct Since {
    now: DateTime<Utc>,
    /// With when it was last seen: one that was not seen at the last look has ended.
    states: BTreeMap<String, (DateTime<Utc>, DateTime<Utc>)>,
}

impl Since {
    /// A look begins: what the last one did not see has ended.
    pub fn begin(&mut self, now: DateTime<Utc>) {
        let last = self.now;
        self.states.retain(|_, (_, seen_at)| *seen_at == last);
        self.now = now;
    }

    /// Since when it is so, where it is.
    pub fn of(&mut self, state: String, is: bool) -> Option<DateTime<Utc>> {
        let now = self.now;
        is.then(|| {
            let (began, seen_at) = self.states.entry(state).or_insert((now, now));
            *seen_at = now;
            *began
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_lasts_as_long_as_it_is_seen() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let mut since = Since::default();
        let mut look = |seconds, is| {
            since.begin(at(seconds));
            since.of("a".to_owned(), is)
        };
        assert_eq!(look(1, true), Some(at(1)));
        assert_eq!(look(2, true), Some(at(1)));
        assert_eq!(look(3, false), None);
        assert_eq!(look(4, true), Some(at(4)));
    }
}
