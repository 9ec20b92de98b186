//! Prometheus' text format, for the samples that the host writes by hand. Names and values come from apps
//! and databases: whatever they are, the page stays well-formed.

use exagg_common::printable::printable;
use exagg_pipeline::status::Sample;

/// A label's value, without the quotes around it.
pub fn label(value: &str) -> String {
    escape(value).replace('"', "\\\"")
}

/// The two lines before the samples of a metric; `kind` is `gauge` or `counter`.
pub fn head(name: &str, help: &str, kind: &str) -> String {
    format!("# HELP {name} {}\n# TYPE {name} {kind}\n", escape(help))
}

/// The format knows `\\`, `\"` and `\n`: other control characters become text, whose backslash is escaped.
fn escape(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(|line| printable(line).replace('\\', "\\\\")).collect();
    lines.join("\\n")
}

fn is_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || matches!(first, '_' | ':'))
        && characters.all(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | ':'))
}

/// A number as the format writes it.
fn number(text: &str) -> Option<String> {
    let number: f64 = text.trim().parse().ok()?;
    Some(match number {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        number => number.to_string(),
    })
}

/// The samples as gauges; those of one name stand together. What is no sample is left out.
pub fn gauges(samples: &[Sample]) -> String {
    let (mut text, mut last) = (String::new(), "");
    for sample in samples {
        let Some(value) = number(&sample.value).filter(|_| is_name(&sample.name)) else { continue };
        if sample.name != last {
            last = sample.name.as_str();
            text += &head(last, &sample.help, "gauge");
        }
        text += &format!("{last}{{stream=\"{}\"}} {value}\n", label(&sample.stream));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, help: &str, stream: &str, value: &str) -> Sample {
        let [name, help, stream, value] = [name, help, stream, value].map(str::to_owned);
        Sample { name, help, stream, value }
    }

    #[test]
    fn a_label_stays_in_its_quotes() {
        assert_eq!(label("exchanges"), "exchanges");
        assert_eq!(label("a\"} 1\nforged 2"), "a\\\"} 1\\nforged 2");
        assert_eq!(label("a\\"), "a\\\\");
        assert_eq!(label("\u{1b}[2J\r"), "\\\\u{1b}[2J\\\\r");
        let head = head("m", "a\\b\n\"c\"", "gauge");
        assert_eq!(head, "# HELP m a\\\\b\\n\"c\"\n# TYPE m gauge\n");
    }

    #[test]
    fn samples_of_a_name_stand_together() {
        let sample = |name, stream, value| sample(name, "What\nit is.", stream, value);
        let samples = [sample("a", "x", "1"), sample("a", "y", "2.50"), sample("b:c_1", "x", "-0.125")];
        assert_eq!(
            gauges(&samples),
            "# HELP a What\\nit is.\n# TYPE a gauge\na{stream=\"x\"} 1\na{stream=\"y\"} 2.5\n\
             # HELP b:c_1 What\\nit is.\n# TYPE b:c_1 gauge\nb:c_1{stream=\"x\"} -0.125\n"
        );
    }

    #[test]
    fn what_is_no_sample_is_left_out() {
        for name in ["", "1a", "a b", "a{b=\"c\"}", "a\n", "a-b", "ä"] {
            assert_eq!(gauges(&[sample(name, "", "", "1")]), "", "{name:?}");
        }
        for value in ["", "1 2", "one", "1\n", "0x1", "1_000"] {
            let text = gauges(&[sample("a", "", "", value)]);
            assert!(text.is_empty() || text.ends_with("a{stream=\"\"} 1\n"), "{value:?}: {text:?}");
        }
        assert_eq!(number("Infinity").as_deref(), Some("+Inf"));
        assert_eq!(number("-Infinity").as_deref(), Some("-Inf"));
        assert_eq!(number("NaN").as_deref(), Some("NaN"));
    }
}
