//! The component's variables.

use exagg_sdk::postgres::Address;
use window::event::Schema;
use window::fields::FieldNames;
use window::late::Late;
use window::time::{FormatError, TimeFormat};
use window::windows::{Windows, WindowsError};

/// A year: more is a mistake in the unit.
const SECONDS_MAX: i64 = 366 * 24 * 3600;

#[derive(Clone, Debug)]
pub struct Settings {
    pub stream: String,
    pub schema: Schema,
    pub windows: Windows,
    pub allowed_lateness_seconds: i64,
    pub idle_timeout_seconds: i64,
    pub late: Late,
    pub address: Address,
}

/// Why the variables cannot be used: wrong until somebody changes them.
#[derive(Debug, Eq, PartialEq)]
pub enum SettingsError {
    Missing(String),
    NotANumber { name: &'static str, value: String },
    OutOfRange(&'static str),
    Late(String),
    Stream(String),
    Windows(WindowsError),
    Format(FormatError),
}

impl std::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(why) => f.write_str(why),
            Self::NotANumber { name, value } => write!(f, "the variable {name} is {value:?}: a whole number is wanted"),
            Self::OutOfRange(name) => write!(f, "the variable {name} must be 0 to {SECONDS_MAX}"),
            Self::Late(value) => write!(f, "the variable late is {value:?}: use \"revise\" or \"reject\""),
            Self::Stream(value) => {
                write!(f, "the variable stream is {value:?}: 1 to 256 bytes without U+0000 are wanted")
            }
            Self::Windows(error) => error.fmt(f),
            Self::Format(error) => error.fmt(f),
        }
    }
}

/// Texts of all variables, as the host resolved them.
pub struct Texts {
    pub stream: String,
    pub key_field: String,
    pub value_field: String,
    pub time_field: String,
    pub time_format: String,
    pub time_zone: String,
    pub window_seconds: String,
    pub slide_seconds: String,
    pub allowed_lateness_seconds: String,
    pub idle_timeout_seconds: String,
    pub max_future_seconds: String,
    pub late: String,
    pub address: Address,
}

impl Settings {
    /// Reads the component's variables.
    pub async fn load() -> Result<Self, SettingsError> {
        Self::new(Texts {
            stream: get("stream").await?,
            key_field: get("key_field").await?,
            value_field: get("value_field").await?,
            time_field: get("time_field").await?,
            time_format: get("time_format").await?,
            time_zone: get("time_zone").await?,
            window_seconds: get("window_seconds").await?,
            slide_seconds: get("slide_seconds").await?,
            allowed_lateness_seconds: get("allowed_lateness_seconds").await?,
            idle_timeout_seconds: get("idle_timeout_seconds").await?,
            max_future_seconds: get("max_future_seconds").await?,
            late: get("late").await?,
            address: Address::load().await.map_err(SettingsError::Missing)?,
        })
    }

    /// Checks the texts; an empty `slide_seconds` means windows that do not overlap.
    pub fn new(texts: Texts) -> Result<Self, SettingsError> {
        if texts.stream.is_empty() || texts.stream.len() > 256 || texts.stream.contains('\0') {
            return Err(SettingsError::Stream(texts.stream));
        }
        let window_seconds = number("window_seconds", &texts.window_seconds)?;
        let slide_seconds = match texts.slide_seconds.as_str() {
            "" => window_seconds,
            text => number("slide_seconds", text)?,
        };
        Ok(Self {
            windows: Windows::new(window_seconds, slide_seconds).map_err(SettingsError::Windows)?,
            schema: Schema {
                time_format: TimeFormat::new(&texts.time_format, &texts.time_zone).map_err(SettingsError::Format)?,
                max_future_seconds: seconds("max_future_seconds", &texts.max_future_seconds)?,
                names: FieldNames { key: texts.key_field, value: texts.value_field, time: texts.time_field },
            },
            allowed_lateness_seconds: seconds("allowed_lateness_seconds", &texts.allowed_lateness_seconds)?,
            idle_timeout_seconds: seconds("idle_timeout_seconds", &texts.idle_timeout_seconds)?,
            late: Late::parse(&texts.late).ok_or(SettingsError::Late(texts.late))?,
            stream: texts.stream,
            address: texts.address,
        })
    }
}

async fn get(name: &str) -> Result<String, SettingsError> {
    exagg_sdk::variables::get(name).await.map_err(SettingsError::Missing)
}

fn number(name: &'static str, text: &str) -> Result<i64, SettingsError> {
    text.parse().map_err(|_| SettingsError::NotANumber { name, value: text.to_owned() })
}

fn seconds(name: &'static str, text: &str) -> Result<i64, SettingsError> {
    match number(name, text)? {
        value if (0..=SECONDS_MAX).contains(&value) => Ok(value),
        _ => Err(SettingsError::OutOfRange(name)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn texts() -> Texts {
        Texts {
            stream: "exchanges".into(),
            key_field: "code".into(),
            value_field: "volume".into(),
            time_field: "time".into(),
            time_format: "%Y-%m-%d %H:%M:%S".into(),
            time_zone: "UTC".into(),
            window_seconds: "60".into(),
            slide_seconds: String::new(),
            allowed_lateness_seconds: "5".into(),
            idle_timeout_seconds: "20".into(),
            max_future_seconds: "60".into(),
            late: "revise".into(),
            address: Address::new("postgres://user:secret@db/app".into(), "").unwrap(),
        }
    }

    #[test]
    fn windows_do_not_overlap_unless_a_slide_is_given() {
        assert_eq!(Settings::new(texts()).unwrap().windows.slide_seconds(), 60);
        let hopping = Texts { slide_seconds: "15".into(), ..texts() };
        assert_eq!(Settings::new(hopping).unwrap().windows.slide_seconds(), 15);
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let error = |texts| Settings::new(texts).unwrap_err().to_string();
        assert!(error(Texts { late: "drop".into(), ..texts() }).contains("late"));
        assert!(error(Texts { window_seconds: "1m".into(), ..texts() }).contains("window_seconds"));
        assert!(error(Texts { slide_seconds: "7".into(), ..texts() }).contains("slide_seconds"));
        assert!(error(Texts { time_zone: "Nowhere".into(), ..texts() }).contains("Nowhere"));
        assert!(error(Texts { idle_timeout_seconds: "-1".into(), ..texts() }).contains("idle_timeout_seconds"));
        assert!(error(Texts { stream: String::new(), ..texts() }).contains("stream"));
    }
}
