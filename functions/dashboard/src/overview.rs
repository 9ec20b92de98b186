//! What the first screen and the API say of the pipeline, out of what the database knows. Pure.
//!
//! # Layout
//! - [`facts`]: what the database gives.
//! - [`streams`], [`stages`], [`hosts`]: the same as the API shows it, merged over hosts.
//! - [`health`]: what is wrong, since when, and what mends it.

pub mod facts;
pub mod health;
pub mod hosts;
pub mod stages;
pub mod streams;

use serde::Serialize;

use self::facts::{Facts, time};
use self::health::Health;
use self::hosts::Host;
use self::stages::Stage;
use self::streams::Stream;

/// All of one moment.
#[derive(Debug, Serialize)]
pub struct Overview {
    pub now: String,
    pub health: Health,
    pub streams: Vec<Stream>,
    pub stages: Vec<Stage>,
    pub hosts: Vec<Host>,
}

impl Overview {
    pub fn new(facts: &Facts) -> Self {
        let streams: Vec<Stream> = facts.streams.iter().map(|stream| Stream::new(facts, stream)).collect();
        Self {
            now: time(facts.now_us),
            health: Health::new(facts, &streams),
            streams,
            stages: stages::all(facts),
            hosts: facts.hosts.iter().map(|host| Host::new(facts, host)).collect(),
        }
    }
}

#[cfg(test)]
pub mod tests;
