//! The component's variables.

use std::fmt;

use exagg_sdk::postgres::Address;
use window::defaults;
use window::event::Schema;
use window::fields::{PlaceError, Places};
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
    pub on_settings_change: OnSettingsChange,
    /// What decides what a row means.
    pub made_with: MadeWith,
    pub address: Address,
}

/// What is to happen where the stream has rows that were made with other settings of fields, times or windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSettingsChange {
    /// Nothing is counted until a replay has made the rows anew.
    Replay,
    /// What comes is counted by the new settings, and the rows stay as they are.
    FromNowOn,
}

impl OnSettingsChange {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "replay" => Some(Self::Replay),
            "from-now-on" => Some(Self::FromNowOn),
            _ => None,
        }
    }
}

/// The settings that decide what a row means, as one JSON object: as `streams.made_with` and `replays.made_with` have
/// them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MadeWith(serde_json::Map<String, serde_json::Value>);

impl MadeWith {
    /// What differs of settings that are written so, in words: `value_field "depth", here "volume"`.
    pub fn differences(&self, other: &str) -> String {
        let other: serde_json::Map<_, _> = serde_json::from_str(other).unwrap_or_default();
        let differs = self.0.iter().filter(|(name, here)| other.get(*name) != Some(*here));
        let told = differs.map(|(name, here)| match other.get(name) {
            Some(there) => format!("{name} {there}, here {here}"),
            None => format!("no {name}, here {here}"),
        });
        let more = other.iter().filter(|(name, _)| !self.0.contains_key(*name));
        let told = told.chain(more.map(|(name, there)| format!("{name} {there}, here none")));
        told.collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for MadeWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(&self.0).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

/// Why the variables cannot be used: wrong until somebody changes them.
#[derive(Debug, Eq, PartialEq)]
pub enum SettingsError {
    Missing(String),
    NotANumber { name: &'static str, value: String },
    OutOfRange(&'static str),
    Late(String),
    OnSettingsChange(String),
    Stream(String),
    NumbersInText(String),
    Windows(WindowsError),
    Format(FormatError),
    Place(PlaceError),
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(why) => f.write_str(why),
            Self::NotANumber { name, value } => write!(f, "the variable {name} is {value:?}: a whole number is wanted"),
            Self::OutOfRange(name) => write!(f, "the variable {name} must be 0 to {SECONDS_MAX}"),
            Self::Late(value) => write!(f, "the variable late is {value:?}: use \"revise\" or \"reject\""),
            Self::OnSettingsChange(value) => {
                write!(f, "the variable on_settings_change is {value:?}: use \"replay\" or \"from-now-on\"")
            }
            Self::Stream(value) => {
                write!(f, "the variable stream is {value:?}: 1 to 256 bytes without U+0000 are wanted")
            }
            Self::NumbersInText(value) => {
                write!(f, "the variable numbers_in_text is {value:?}: use \"true\" or \"false\"")
            }
            Self::Windows(error) => error.fmt(f),
            Self::Format(error) => error.fmt(f),
            Self::Place(error) => write!(f, "the variable {error}"),
        }
    }
}

/// The variables that have a default, each with it. They are described in docs/streams.md.
pub const DEFAULTS: [(&str, &str); 13] = [
    ("key_field", defaults::KEY_FIELD),
    ("value_field", defaults::VALUE_FIELD),
    ("time_field", defaults::TIME_FIELD),
    ("time_format", defaults::TIME_FORMAT),
    ("time_zone", defaults::TIME_ZONE),
    ("numbers_in_text", "false"),
    ("window_seconds", defaults::WINDOW_SECONDS),
    ("slide_seconds", ""),
    ("allowed_lateness_seconds", "5"),
    ("idle_timeout_seconds", "20"),
    ("max_future_seconds", defaults::MAX_FUTURE_SECONDS),
    ("late", "revise"),
    ("on_settings_change", "replay"),
];

/// Texts of all variables, as the host resolved them.
pub struct Texts {
    pub stream: String,
    pub key_field: String,
    pub value_field: String,
    pub time_field: String,
    pub time_format: String,
    pub time_zone: String,
    pub numbers_in_text: String,
    pub window_seconds: String,
    pub slide_seconds: String,
    pub allowed_lateness_seconds: String,
    pub idle_timeout_seconds: String,
    pub max_future_seconds: String,
    pub late: String,
    pub on_settings_change: String,
    pub address: Address,
}

impl Settings {
    /// Reads the component's variables.
    pub async fn load() -> Result<Self, SettingsError> {
        Self::new(Texts {
            stream: exagg_sdk::variables::get("stream").await.map_err(SettingsError::Missing)?,
            key_field: or_default("key_field").await?,
            value_field: or_default("value_field").await?,
            time_field: or_default("time_field").await?,
            time_format: or_default("time_format").await?,
            time_zone: or_default("time_zone").await?,
            numbers_in_text: or_default("numbers_in_text").await?,
            window_seconds: or_default("window_seconds").await?,
            slide_seconds: or_default("slide_seconds").await?,
            allowed_lateness_seconds: or_default("allowed_lateness_seconds").await?,
            idle_timeout_seconds: or_default("idle_timeout_seconds").await?,
            max_future_seconds: or_default("max_future_seconds").await?,
            late: or_default("late").await?,
            on_settings_change: or_default("on_settings_change").await?,
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
        let on_settings_change = OnSettingsChange::parse(&texts.on_settings_change)
            .ok_or_else(|| SettingsError::OnSettingsChange(texts.on_settings_change.clone()))?;
        let numbers_in_text = match texts.numbers_in_text.as_str() {
            "true" => true,
            "false" => false,
            _ => return Err(SettingsError::NumbersInText(texts.numbers_in_text)),
        };
        let (names, places) =
            Places::parse(&texts.key_field, &texts.value_field, &texts.time_field).map_err(SettingsError::Place)?;
        let made_with = [
            ("key_field", texts.key_field.as_str().into()),
            ("value_field", texts.value_field.as_str().into()),
            ("time_field", texts.time_field.as_str().into()),
            ("time_format", texts.time_format.as_str().into()),
            ("time_zone", texts.time_zone.as_str().into()),
            ("window_seconds", window_seconds.into()),
            ("slide_seconds", slide_seconds.into()),
        ];
        // Rows of before this variable were made without it.
        let numbers = numbers_in_text.then(|| ("numbers_in_text", true.into()));
        let made_with = made_with.into_iter().chain(numbers).map(|(name, value)| (name.to_owned(), value));
        Ok(Self {
            windows: Windows::new(window_seconds, slide_seconds).map_err(SettingsError::Windows)?,
            on_settings_change,
            made_with: MadeWith(made_with.collect()),
            schema: Schema {
                time_format: TimeFormat::new(&texts.time_format, &texts.time_zone).map_err(SettingsError::Format)?,
                max_future_seconds: seconds("max_future_seconds", &texts.max_future_seconds)?,
                names,
                places,
                numbers_in_text,
            },
            allowed_lateness_seconds: seconds("allowed_lateness_seconds", &texts.allowed_lateness_seconds)?,
            idle_timeout_seconds: seconds("idle_timeout_seconds", &texts.idle_timeout_seconds)?,
            late: Late::parse(&texts.late).ok_or(SettingsError::Late(texts.late))?,
            stream: texts.stream,
            address: texts.address,
        })
    }
}

/// A variable that is empty, or that the manifest does not have, has its default.
async fn or_default(name: &str) -> Result<String, SettingsError> {
    let said = exagg_sdk::variables::get_if_defined(name).await.map_err(SettingsError::Missing)?;
    let default = || DEFAULTS.iter().find(|(known, _)| *known == name).map_or("", |(_, default)| default);
    Ok(said.filter(|said| !said.is_empty()).unwrap_or_else(|| default().to_owned()))
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
            numbers_in_text: "false".into(),
            window_seconds: "60".into(),
            slide_seconds: String::new(),
            allowed_lateness_seconds: "5".into(),
            idle_timeout_seconds: "20".into(),
            max_future_seconds: "60".into(),
            late: "revise".into(),
            on_settings_change: "replay".into(),
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
    fn what_differs_of_the_settings_that_rows_were_made_with_is_told() {
        let before = Settings::new(Texts { value_field: "depth".into(), ..texts() }).unwrap().made_with;
        let now = Settings::new(Texts { window_seconds: "30".into(), ..texts() }).unwrap().made_with;
        let same = Settings::new(Texts { slide_seconds: "30".into(), window_seconds: "30".into(), ..texts() }).unwrap();
        assert_eq!(now, same.made_with);
        assert_eq!(now.differences(&now.to_string()), "");
        let told = now.differences(&before.to_string());
        let texts_are_numbers = Settings::new(Texts { numbers_in_text: "true".into(), ..texts() }).unwrap().made_with;
        let plain = Settings::new(texts()).unwrap().made_with;
        assert_eq!(plain.differences(&texts_are_numbers.to_string()), "numbers_in_text true, here none");
        assert_eq!(texts_are_numbers.differences(&plain.to_string()), "no numbers_in_text, here true");
        assert_eq!(
            told,
            "slide_seconds 60, here 30; value_field \"depth\", here \"volume\"; window_seconds 60, here 30"
        );
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let error = |texts| Settings::new(texts).unwrap_err().to_string();
        assert!(error(Texts { late: "drop".into(), ..texts() }).contains("late"));
        assert!(error(Texts { on_settings_change: "x".into(), ..texts() }).contains("on_settings_change"));
        assert!(error(Texts { window_seconds: "1m".into(), ..texts() }).contains("window_seconds"));
        assert!(error(Texts { slide_seconds: "7".into(), ..texts() }).contains("slide_seconds"));
        assert!(error(Texts { time_zone: "Nowhere".into(), ..texts() }).contains("Nowhere"));
        assert!(error(Texts { idle_timeout_seconds: "-1".into(), ..texts() }).contains("idle_timeout_seconds"));
        assert!(error(Texts { stream: String::new(), ..texts() }).contains("stream"));
        assert!(error(Texts { numbers_in_text: "yes".into(), ..texts() }).contains("numbers_in_text"));
        let place = error(Texts { time_field: "kafka:time".into(), ..texts() });
        assert!(place.contains("time_field") && place.contains("kafka:timestamp"), "{place}");
    }

    #[test]
    fn every_default_is_one_that_can_be_used_and_is_written_down() {
        let of = |name: &str| DEFAULTS.iter().find(|(known, _)| *known == name).unwrap().1.to_owned();
        let defaults = Texts {
            key_field: of("key_field"),
            value_field: of("value_field"),
            time_field: of("time_field"),
            time_format: of("time_format"),
            time_zone: of("time_zone"),
            numbers_in_text: of("numbers_in_text"),
            window_seconds: of("window_seconds"),
            slide_seconds: of("slide_seconds"),
            allowed_lateness_seconds: of("allowed_lateness_seconds"),
            idle_timeout_seconds: of("idle_timeout_seconds"),
            max_future_seconds: of("max_future_seconds"),
            late: of("late"),
            on_settings_change: of("on_settings_change"),
            ..texts()
        };
        Settings::new(defaults).unwrap();
        let page = std::fs::read_to_string("../../docs/streams.md").unwrap();
        for (name, default) in DEFAULTS {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            let row = row.unwrap_or_else(|| panic!("docs/streams.md has no row of {name}"));
            let told = row.split(" | ").nth(1).unwrap().trim_matches('`');
            assert_eq!(told, if default.is_empty() { "none" } else { default }, "{name}");
        }
        for name in ["stream", "postgres_url", "postgres_schema", "own_postgres_url"] {
            assert!(page.contains(&format!("| `{name}` |")), "docs/streams.md has no row of {name}");
        }
    }
}
