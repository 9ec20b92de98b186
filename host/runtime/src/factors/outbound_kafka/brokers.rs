//! A broker list, in one form however it is written.

use std::fmt;

use exagg_clients::kafka::{BrokerAddressError, addresses};

/// Addresses that a list may have, and bytes.
const ADDRESSES_MAX: usize = 32;
const BYTES_MAX: usize = 4096;

/// Why a guest's text is not taken for a broker list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerListError {
    /// The text is longer than any list of [`ADDRESSES_MAX`] names need be.
    #[error("the broker list is longer than {BYTES_MAX} bytes")]
    TooLong,
    /// Each address would cost a thread and a connection of the host's.
    #[error("the broker list has more than {ADDRESSES_MAX} addresses")]
    TooMany,
    /// One of the entries is not an address.
    #[error(transparent)]
    Address(#[from] BrokerAddressError),
}

/// Lower case, sorted, each address once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BrokerList(Vec<(String, u16)>);

impl BrokerList {
    /// As a guest gives it.
    pub fn parse(text: &str) -> Result<Self, BrokerListError> {
        if text.len() > BYTES_MAX {
            return Err(BrokerListError::TooLong);
        }
        let mut list = addresses(text)?;
        if list.len() > ADDRESSES_MAX {
            return Err(BrokerListError::TooMany);
        }
        for (host, _) in &mut list {
            host.make_ascii_lowercase();
        }
        list.sort_unstable();
        list.dedup();
        Ok(Self(list))
    }

    pub fn addresses(&self) -> &[(String, u16)] {
        &self.0
    }
}

impl fmt::Display for BrokerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (host, port)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if host.contains(':') {
                write!(f, "{comma}[{host}]:{port}")?;
            } else {
                write!(f, "{comma}{host}:{port}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_differ_in_writing_alone_are_one() {
        let list = BrokerList::parse("b:2,a:1,[::1]:3").unwrap();
        for same in [" b:2 ,a:1, [::1]:3", "A:1,a:1,B:2,b:2,[::1]:03", "[::1]:3,a:1 ,b:2"] {
            assert_eq!(BrokerList::parse(same).unwrap(), list, "{same}");
        }
        assert_eq!(list.to_string(), "[::1]:3,a:1,b:2");
        assert_eq!(BrokerList::parse(&list.to_string()), Ok(list));
    }

    #[test]
    fn a_list_has_an_end() {
        let many = |count: usize| (0..count).map(|number| format!("b{number}:1")).collect::<Vec<_>>().join(",");
        assert!(BrokerList::parse(&many(ADDRESSES_MAX)).is_ok());
        assert!(BrokerList::parse(&many(ADDRESSES_MAX + 1)).is_err());
        assert!(BrokerList::parse(&format!("a:1{}", " ".repeat(BYTES_MAX))).is_err());
    }
}
