//! Values of variables: from flags, files, the environment and `.env`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};
use exagg_app::Provider;
use exagg_common::template::Secret;

use super::{Environment, errors};

pub(super) fn secrets(values: BTreeMap<String, String>) -> BTreeMap<String, Secret> {
    values.into_iter().map(|(name, value)| (name, Secret::new(value))).collect()
}

/// `--variable k=v`, `k=@file`, and `@file.toml` or `@file.json`.
pub(super) fn flags(flags: &[String]) -> Result<BTreeMap<String, Secret>> {
    let mut values = BTreeMap::new();
    for flag in flags {
        if let Some(path) = flag.strip_prefix('@') {
            values.extend(secrets(variables_file(Path::new(path))?));
            continue;
        }
        let (name, value) = flag
            .split_once('=')
            .with_context(|| format!("--variable {flag:?} is not of the form K=V, K=@FILE or @FILE"))?;
        let value = match value.strip_prefix('@') {
            // Editors end a file with a line break; no key or address does.
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("--variable {name}: cannot read {path}"))?
                .trim_end_matches(['\r', '\n'])
                .to_owned(),
            None => value.to_owned(),
        };
        values.insert(name.to_owned(), Secret::new(value));
    }
    Ok(values)
}

fn variables_file(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--variable: cannot read {}", path.display()))?;
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let values = if is_json {
        serde_json::from_str(&text).map_err(|error| errors::of_json(&error))
    } else {
        toml::from_str(&text).map_err(|error| errors::of_toml(&text, &error))
    };
    values.with_context(|| format!("--variable: {} is not a table of texts", path.display()))
}

pub(super) fn env_provider(prefix: &str, environment: &Environment) -> Provider {
    let text = |(name, value): (&OsString, &OsString)| Some((name.to_str()?.to_owned(), Secret::new(value.to_str()?)));
    Provider::Env { prefix: prefix.to_owned(), variables: environment.iter().filter_map(text).collect() }
}

/// `NAME=value` lines; quotes around a value and `export` before a name are taken off.
pub(super) fn dotenv(prefix: &str, path: &Path) -> Result<Provider> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut variables = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) =
            line.split_once('=').with_context(|| format!("{} line {}: no =", path.display(), number + 1))?;
        let name = name.trim().trim_start_matches("export ").trim();
        let value = value.trim();
        let quoted = |quote| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        variables.insert(name.to_owned(), Secret::new(value));
    }
    Ok(Provider::Env { prefix: prefix.to_owned(), variables })
}

/// How alike two names have to be for one to be taken for the other, mistyped.
const ALIKE: f64 = 0.8;

/// The known name that was probably meant, as the end of a message; nothing where none is like it.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a String>) -> String {
    let alike = known.into_iter().map(|known| (strsim::jaro_winkler(name, known), known));
    let nearest = alike.filter(|(alike, _)| *alike >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
    nearest.map_or_else(String::new, |(_, known)| format!(": did you mean {known}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_flag_is_a_pair_or_a_file() {
        let values = flags(&["a=1".to_owned(), "b=x=y".to_owned()]).unwrap();
        assert_eq!(values["a"].expose(), "1");
        assert_eq!(values["b"].expose(), "x=y");
        let file = std::env::temp_dir().join(format!("exagg-variable-{}", std::process::id()));
        std::fs::write(&file, "key\n").unwrap();
        assert_eq!(flags(&[format!("a=@{}", file.display())]).unwrap()["a"].expose(), "key");
        std::fs::remove_file(&file).unwrap();
        assert!(flags(&["a".to_owned()]).is_err());
        assert!(flags(&["a=@/does/not/exist".to_owned()]).is_err());
    }
}
