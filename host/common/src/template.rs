//! `{{ variable }}` templates, as Spin writes them in manifests.

use std::collections::BTreeMap;
use std::fmt;

/// A text that may be a password or hold one: never shown by Debug.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes any text; [`Secret::expose`] alone shows it again.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself; the caller must not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The app's variables with their values.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, Secret>);

/// Why a template cannot be expanded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// The name between the braces, without blanks around it, which no variable has.
    #[error("the template names the variable {0:?}, which the app does not have")]
    Unknown(String),
    /// A pair of opening braces has no closing pair behind it.
    #[error("the template has \"{{{{\" without \"}}}}\"")]
    Unclosed,
}

impl Variables {
    /// Of two values for one name the later one counts.
    pub fn new(values: impl IntoIterator<Item = (String, Secret)>) -> Self {
        Self(values.into_iter().collect())
    }

    /// None where no variable has exactly this name.
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Puts the values in the places of their names.
    pub fn expand(&self, template: &str) -> Result<String, TemplateError> {
        let mut text = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((before, behind)) = rest.split_once("{{") {
            let (name, after) = behind.split_once("}}").ok_or(TemplateError::Unclosed)?;
            let name = name.trim();
            let value = self.get(name).ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
            text.push_str(before);
            text.push_str(value.expose());
            rest = after;
        }
        text.push_str(rest);
        Ok(text)
    }

    /// Expands every string in a JSON value.
    pub fn expand_json(&self, value: &mut serde_json::Value) -> Result<(), TemplateError> {
        match value {
            serde_json::Value::String(text) => *text = self.expand(text)?,
            serde_json::Value::Array(items) => {
                for item in items {
                    self.expand_json(item)?;
                }
            }
            serde_json::Value::Object(fields) => {
                for field in fields.values_mut() {
                    self.expand_json(field)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        Variables::new([("host".to_owned(), Secret::new("db")), ("port".to_owned(), Secret::new("5432"))])
    }

    #[test]
    fn names_are_replaced_by_values() {
        assert_eq!(variables().expand("postgres://{{ host }}:{{port}}/x").unwrap(), "postgres://db:5432/x");
        assert_eq!(variables().expand("plain { text }").unwrap(), "plain { text }");
    }

    #[test]
    fn what_cannot_be_expanded_is_an_error() {
        assert_eq!(variables().expand("{{ nope }}"), Err(TemplateError::Unknown("nope".to_owned())));
        assert_eq!(variables().expand("{{ host"), Err(TemplateError::Unclosed));
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        assert!(!format!("{:?}", variables()).contains("5432"));
    }
}
