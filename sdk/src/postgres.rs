//! The address of a function's database.

use spin_sdk::variables::{self, Error};

/// The component's own address, by a role that may do no more than the component needs.
const OWN: &str = "own_postgres_url";
/// The address that the components of an app share.
const SHARED: &str = "postgres_url";

/// The component variable `own_postgres_url` where it is defined and not empty, else `postgres_url`. (Spin
/// has no way to make one variable the default of another.)
///
/// # Errors
/// When the variable cannot be read; the text names it.
pub async fn url() -> Result<String, String> {
    match own(variables::get(OWN).await)? {
        Some(url) => Ok(url),
        None => variables::get(SHARED).await.map_err(|error| format!("variable {SHARED}: {error}")),
    }
}

/// The component's own address, if it has one. One that cannot be read is an error: what the shared one may
/// do would not be noticed in its place.
fn own(answer: Result<String, Error>) -> Result<Option<String>, String> {
    match answer {
        Ok(url) => Ok(Some(url).filter(|url| !url.is_empty())),
        Err(Error::Undefined(_)) => Ok(None),
        Err(error) => Err(format!("variable {OWN}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_components_own_address_is_taken_before_the_shared_one() {
        assert_eq!(own(Ok("postgres://closer@db/app".to_owned())), Ok(Some("postgres://closer@db/app".to_owned())));
        assert_eq!(own(Ok(String::new())), Ok(None), "empty: the default of the app's variable");
        assert_eq!(own(Err(Error::Undefined(OWN.to_owned()))), Ok(None), "a manifest that does not know it");
    }

    #[test]
    fn one_that_cannot_be_read_is_not_replaced_by_the_shared_one() {
        let refused = own(Err(Error::Provider("the vault is sealed".to_owned())));
        assert!(refused.is_err_and(|error| error.contains(OWN) && error.contains("sealed")));
    }
}
