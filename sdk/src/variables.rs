//! A component's variables, and why one cannot be read.

use spin_sdk::variables::{self, Error};

/// The value of one of the component's variables.
///
/// # Errors
/// When the variable is not defined, or its provider fails; the text names the variable.
pub async fn get(name: &str) -> Result<String, String> {
    variables::get(name).await.map_err(|error| in_words(name, &error))
}

/// The same; none where the variable is not defined.
///
/// # Errors
/// When its provider fails; the text names the variable.
pub async fn get_if_defined(name: &str) -> Result<Option<String>, String> {
    match variables::get(name).await {
        Ok(value) => Ok(Some(value)),
        Err(Error::Undefined(_)) => Ok(None),
        Err(error) => Err(in_words(name, &error)),
    }
}

/// What to say of a variable that cannot be read.
pub(crate) fn in_words(name: &str, error: &Error) -> String {
    match error {
        Error::Undefined(_) => format!("the variable {name} is not defined for this component (its manifest names it)"),
        Error::InvalidName(why) | Error::Provider(why) | Error::Other(why) => format!("variable {name}: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_named() {
        let undefined = in_words("late", &Error::Undefined("late".to_owned()));
        assert!(undefined.contains("late is not defined"), "{undefined}");
        let sealed = in_words("api_key", &Error::Provider("the vault is sealed".to_owned()));
        assert!(sealed.contains("api_key: the vault"), "{sealed}");
    }
}
