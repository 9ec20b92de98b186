//! What a store may hold, and the totals that are kept with it.
//!
//! A store is shared by all components that may open it, so its quota is the store's; the totals change in the
//! transaction that changes the values.

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use super::{VALUES, other, wit};

/// Bytes and keys of each store, by its label.
pub const TOTALS: TableDefinition<&str, (u64, u64)> = TableDefinition::new("totals");

const KEY_BYTES_MAX: usize = 255;
const VALUE_BYTES_MAX: usize = 1024 * 1024;
const STORE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const STORE_KEYS_MAX: u64 = 100_000;

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub bytes: u64,
    pub keys: u64,
}

impl Totals {
    /// After a key's pair of so many bytes takes the place of another; None is no pair.
    pub fn after(self, before: Option<u64>, after: Option<u64>) -> Self {
        let step = |total: u64, less: u64, more: u64| total.saturating_sub(less) + more;
        Self {
            bytes: step(self.bytes, before.unwrap_or(0), after.unwrap_or(0)),
            keys: step(self.keys, before.is_some().into(), after.is_some().into()),
        }
    }

    /// Refuses what grows beyond the quota; a store that is too large already may shrink.
    fn check(self, before: Self) -> Result<(), Full> {
        if self.bytes > STORE_BYTES_MAX && self.bytes > before.bytes {
            return Err(Full::Bytes);
        }
        if self.keys > STORE_KEYS_MAX && self.keys > before.keys {
            return Err(Full::Keys);
        }
        Ok(())
    }
}

/// Why nothing more fits into a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Full {
    #[error("the store may hold {STORE_BYTES_MAX} bytes of keys and values, and is full: delete some")]
    Bytes,
    #[error("the store may hold {STORE_KEYS_MAX} keys, and is full: delete some")]
    Keys,
}

/// What a key and its value count for.
pub fn pair_bytes(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

/// Refuses what is too long for any store.
pub fn check_pair(key: &str, value: &[u8]) -> Result<(), wit::Error> {
    let refuse = |what: &str, most: usize| Err(wit::Error::Other(format!("{what} may have {most} bytes")));
    if key.len() > KEY_BYTES_MAX {
        return refuse("a key", KEY_BYTES_MAX);
    }
    if value.len() > VALUE_BYTES_MAX {
        return refuse("a value", VALUE_BYTES_MAX);
    }
    Ok(())
}

/// Sets or removes a value, with the totals.
pub fn change(write: &WriteTransaction, label: &str, key: &str, value: Option<&[u8]>) -> Result<Totals, wit::Error> {
    let mut values = write.open_table(VALUES).map_err(other)?;
    let mut totals = write.open_table(TOTALS).map_err(other)?;
    let before = read(&totals, label)?;
    let replaced = match value {
        Some(value) => values.insert((label, key), value).map_err(other)?,
        None => values.remove((label, key)).map_err(other)?,
    };
    let replaced = replaced.map(|replaced| pair_bytes(key, replaced.value()));
    let after = before.after(replaced, value.map(|value| pair_bytes(key, value)));
    after.check(before).map_err(|full| wit::Error::Other(full.to_string()))?;
    totals.insert(label, (after.bytes, after.keys)).map_err(other)?;
    Ok(after)
}

pub fn read(totals: &impl ReadableTable<&'static str, (u64, u64)>, label: &str) -> Result<Totals, wit::Error> {
    let stored = totals.get(label).map_err(other)?;
    Ok(stored.map(|stored| stored.value()).map_or_else(Totals::default, |(bytes, keys)| Totals { bytes, keys }))
}

/// Counts what a file holds that was written before totals were kept.
pub fn count(write: &WriteTransaction) -> Result<(), wit::Error> {
    let values = write.open_table(VALUES).map_err(other)?;
    let mut totals: Table<'_, &str, (u64, u64)> = write.open_table(TOTALS).map_err(other)?;
    for entry in values.iter().map_err(other)? {
        let (key, value) = entry.map_err(other)?;
        let (label, key) = key.value();
        let sum = read(&totals, label)?.after(None, Some(pair_bytes(key, value.value())));
        totals.insert(label, (sum.bytes, sum.keys)).map_err(other)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_follow_what_is_set_replaced_and_removed() {
        let totals = Totals::default().after(None, Some(10)).after(None, Some(5)).after(Some(10), Some(3));
        assert_eq!(totals, Totals { bytes: 8, keys: 2 });
        assert_eq!(totals.after(Some(5), None).after(None, None), Totals { bytes: 3, keys: 1 });
    }

    #[test]
    fn what_grows_beyond_the_quota_is_refused_and_what_shrinks_is_not() {
        let full = Totals { bytes: STORE_BYTES_MAX, keys: STORE_KEYS_MAX };
        assert!(full.check(Totals::default()).is_ok());
        assert!(full.after(Some(5), Some(6)).check(full).is_err());
        assert!(full.after(Some(5), Some(5)).check(full).is_ok());
        assert!(full.after(None, Some(0)).check(full).is_err());
        let over = Totals { bytes: 2 * STORE_BYTES_MAX, keys: 2 * STORE_KEYS_MAX };
        assert!(over.after(Some(5), None).check(over).is_ok());
    }

    #[test]
    fn keys_and_values_have_lengths() {
        assert!(check_pair(&"k".repeat(255), &vec![0; VALUE_BYTES_MAX]).is_ok());
        assert!(check_pair(&"k".repeat(256), &[]).is_err());
        assert!(check_pair("k", &vec![0; VALUE_BYTES_MAX + 1]).is_err());
    }
}
