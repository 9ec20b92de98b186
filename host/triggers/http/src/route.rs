//! Routes, as Spin writes, orders and matches them. Pure.
//!
//! Spin leaves this to `routefinder` 0.5, whose order and whose reading of slashes are followed here. (That version
//! needs a crate under another licence; in 0.6 `/a/*` matches `/ab`.)

use std::cmp::Ordering;

use anyhow::{Result, bail, ensure};

/// The routes of an app, the best one first.
#[derive(Default)]
pub struct Table(Vec<Route>);

struct Route {
    number: usize,
    written: String,
    rooted: String,
    segments: Vec<Segment>,
}

/// In the order in which they are preferred.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Exact(String),
    Parameter(String),
    /// The rest of the path, also none of it.
    Wildcard,
}

/// The route that a path took.
#[derive(Debug, PartialEq, Eq)]
pub struct Matched<'t> {
    /// As it was added.
    pub number: usize,
    /// As the manifest writes it.
    pub written: &'t str,
    /// The same with a slash before it, and none behind it: `spin-matched-route`.
    pub rooted: &'t str,
    /// Name and value of each `:name`.
    pub parameters: Vec<(&'t str, String)>,
    /// What the wildcard at its end stands for: empty, or from the slash on; a slash at the path's end stays.
    pub rest: String,
}

/// With a slash before it, and none behind it.
fn rooted(written: &str) -> String {
    let slash = if written.starts_with('/') { "" } else { "/" };
    let rooted = format!("{slash}{written}");
    rooted.strip_suffix('/').unwrap_or(&rooted).to_owned()
}

/// What stands between the slashes, those at both ends left out.
fn split(path: &str) -> Vec<&str> {
    match path.trim_matches('/') {
        "" => Vec::new(),
        path => path.split('/').collect(),
    }
}

impl Segment {
    fn rank(&self) -> u8 {
        match self {
            Self::Exact(_) => 0,
            Self::Parameter(_) => 1,
            Self::Wildcard => 2,
        }
    }
}

impl Route {
    fn parse(written: &str, number: usize) -> Result<Self> {
        let rooted = rooted(written);
        let parts = split(&rooted);
        let mut segments = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            segments.push(match part.strip_prefix(':') {
                _ if is_last && matches!(*part, "*" | "...") => Segment::Wildcard,
                _ if part.contains('*') || part.contains("...") => {
                    bail!("the route {written:?} may have a wildcard only as its last segment")
                }
                Some(name) => {
                    ensure!(!name.is_empty() && !name.contains([':', '.']), "the route {written:?} has {part:?}");
                    Segment::Parameter(name.to_owned())
                }
                None => Segment::Exact((*part).to_owned()),
            });
        }
        Ok(Self { number, written: written.to_owned(), rooted, segments })
    }

    /// Less is preferred: by the first segments of different kinds, then the shorter one.
    fn compare(&self, other: &Self) -> Ordering {
        let ranks = |route: &Self| route.segments.iter().map(Segment::rank).collect::<Vec<_>>();
        ranks(self).cmp(&ranks(other))
    }

    /// Whether both match the same paths.
    fn is_same(&self, other: &Self) -> bool {
        let same = |(one, other): (&Segment, &Segment)| match (one, other) {
            (Segment::Exact(one), Segment::Exact(other)) => one == other,
            _ => one.rank() == other.rank(),
        };
        self.segments.len() == other.segments.len() && self.segments.iter().zip(&other.segments).all(same)
    }

    fn matches(&self, path: &str) -> Option<Matched<'_>> {
        let parts = split(path);
        let mut left = parts.as_slice();
        let mut matched = Matched {
            number: self.number,
            written: &self.written,
            rooted: &self.rooted,
            parameters: Vec::new(),
            rest: String::new(),
        };
        for segment in &self.segments {
            if *segment == Segment::Wildcard {
                matched.rest = left.iter().flat_map(|part| ["/", part]).collect();
                if path.ends_with('/') {
                    matched.rest.push('/');
                }
                return Some(matched);
            }
            let (part, behind) = left.split_first()?;
            match segment {
                Segment::Exact(exact) if exact != part => return None,
                Segment::Parameter(name) => matched.parameters.push((name, (*part).to_owned())),
                _ => {}
            }
            left = behind;
        }
        left.is_empty().then_some(matched)
    }
}

impl Table {
    /// Adds a route; one that is there already is refused.
    pub fn add(&mut self, written: &str, number: usize) -> Result<()> {
        let route = Route::parse(written, number)?;
        ensure!(!self.0.iter().any(|known| known.is_same(&route)), "the route {written} is there twice");
        let place = self.0.partition_point(|known| known.compare(&route).is_le());
        self.0.insert(place, route);
        Ok(())
    }

    /// The best route for a path, which has no query.
    pub fn find(&self, path: &str) -> Option<Matched<'_>> {
        self.0.iter().find_map(|route| route.matches(path))
    }
}

impl Matched<'_> {
    /// The route without a `/...` at its end: `spin-component-route`.
    pub fn prefix(&self) -> &str {
        self.written.strip_suffix("/...").unwrap_or(self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[&str]) -> Table {
        let mut table = Table::default();
        for (number, route) in routes.iter().enumerate() {
            table.add(route, number).unwrap();
        }
        table
    }

    fn rest(route: &str, path: &str) -> Option<String> {
        table(&[route]).find(path).map(|matched| matched.rest)
    }

    #[test]
    fn routes_match_as_in_spin() {
        for (route, path, wanted) in [
            ("/", "/", Some("")),
            ("/", "/a", None),
            ("/a", "/a/", Some("")),
            ("a", "/a", Some("")),
            ("/a", "/a/b", None),
            ("/a/...", "/a/b/c", Some("/b/c")),
            ("/a/...", "/a/b/", Some("/b/")),
            ("/a/...", "/a", Some("")),
            ("/a/...", "/a/", Some("/")),
            ("/a/...", "/ab", None),
            ("/a/*", "/a/b/c", Some("/b/c")),
            ("/...", "/x/y", Some("/x/y")),
            ("/...", "/", Some("/")),
            ("/a/b", "/a//b", None),
            ("/a/...", "/a//b", Some("//b")),
        ] {
            assert_eq!(rest(route, path).as_deref(), wanted, "{route} {path}");
        }
        let table = table(&["/users/:user_id/..."]);
        let matched = table.find("/users/7/posts").unwrap();
        assert_eq!(matched.parameters, [("user_id", "7".to_owned())]);
        assert_eq!((matched.prefix(), matched.rooted), ("/users/:user_id", "/users/:user_id/..."));
    }

    #[test]
    fn the_best_route_is_spins() {
        let cases: [(&[&str], &str, usize); 7] = [
            (&["/...", "/a/...", "/a/:id", "/a/b"], "/a/b", 3),
            (&["/...", "/a/...", "/a/:id", "/a/b"], "/a/c", 2),
            (&["/...", "/a/...", "/a/:id", "/a/b"], "/a/c/d", 1),
            (&["/...", "/a/...", "/a/:id", "/a/b"], "/c", 0),
            // An exact segment before a parameter, also where it is followed by a wildcard.
            (&["/:x", "/a/..."], "/a", 1),
            (&["/:x/b", "/a/..."], "/a/b", 1),
            (&["/a/...", "/a"], "/a", 1),
        ];
        for (routes, path, wanted) in cases {
            assert_eq!(table(routes).find(path).map(|matched| matched.number), Some(wanted), "{routes:?} {path}");
        }
    }

    #[test]
    fn routes_that_cannot_be_right_are_refused() {
        let mut table = table(&["/a", "/b/..."]);
        for wrong in ["/a/.../b", "/a", "/a/", "a", "/b/*", "/x/*/y", "/x/:", "/x/:a.:b"] {
            assert!(table.add(wrong, 9).is_err(), "{wrong}");
        }
    }
}
