//! Routes, as Spin writes and matches them. Pure.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// A route: exact (`/a/b`), with parameters (`/a/:b`), or with everything below (`/a/...`).
#[derive(Debug)]
pub struct Pattern {
    pub text: String,
    segments: Vec<Segment>,
    below: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Exact(String),
    Parameter(String),
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Matched {
    pub parameters: BTreeMap<String, String>,
    /// The path behind a `/...`.
    pub rest: String,
}

fn segments(path: &str) -> Vec<&str> {
    path.split('/').filter(|segment| !segment.is_empty()).collect()
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.starts_with('/'), "the route {text:?} must begin with /");
        let (path, below) = match text.strip_suffix("/...") {
            Some(path) => (path, true),
            None => (text, false),
        };
        ensure!(!path.contains("..."), "the route {text:?} may have ... only at its end");
        let segment = |segment: &str| match segment.strip_prefix(':') {
            Some(name) => Segment::Parameter(name.to_owned()),
            None => Segment::Exact(segment.to_owned()),
        };
        Ok(Self { text: text.to_owned(), segments: segments(path).into_iter().map(segment).collect(), below })
    }

    /// Exact before parameters before `/...`; longer before shorter.
    pub fn rank(&self) -> (bool, usize, usize) {
        let exact = self.segments.iter().filter(|segment| matches!(segment, Segment::Exact(_))).count();
        (!self.below, self.segments.len(), exact)
    }

    pub fn matches(&self, path: &str) -> Option<Matched> {
        let path = segments(path);
        if path.len() < self.segments.len() || (!self.below && path.len() > self.segments.len()) {
            return None;
        }
        let mut matched = Matched::default();
        for (segment, part) in self.segments.iter().zip(&path) {
            match segment {
                Segment::Exact(exact) if exact != part => return None,
                Segment::Exact(_) => {}
                Segment::Parameter(name) => {
                    matched.parameters.insert(name.clone(), (*part).to_owned());
                }
            }
        }
        matched.rest = path[self.segments.len()..].iter().flat_map(|part| ["/", part]).collect();
        Some(matched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> Option<Matched> {
        Pattern::parse(pattern).unwrap().matches(path)
    }

    #[test]
    fn routes_match_as_in_spin() {
        assert!(matches("/", "/").is_some());
        assert!(matches("/", "/a").is_none());
        assert!(matches("/a", "/a/").is_some());
        assert!(matches("/a", "/a/b").is_none());
        assert_eq!(matches("/a/...", "/a/b/c").unwrap().rest, "/b/c");
        assert_eq!(matches("/a/...", "/a").unwrap().rest, "");
        assert!(matches("/a/...", "/ab").is_none());
        assert_eq!(matches("/...", "/x/y").unwrap().rest, "/x/y");
        assert_eq!(matches("/a/:id", "/a/7").unwrap().parameters["id"], "7");
    }

    #[test]
    fn the_most_specific_route_comes_first() {
        let mut patterns: Vec<_> =
            ["/...", "/a/...", "/a/:id", "/a/b"].iter().map(|text| Pattern::parse(text).unwrap()).collect();
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.rank()));
        let order: Vec<_> = patterns.iter().map(|pattern| pattern.text.as_str()).collect();
        assert_eq!(order, ["/a/b", "/a/:id", "/a/...", "/..."]);
    }

    #[test]
    fn routes_that_cannot_be_right_are_refused() {
        assert!(Pattern::parse("a").is_err());
        assert!(Pattern::parse("/a/.../b").is_err());
    }
}
