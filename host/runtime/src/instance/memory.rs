//! How much memory an instance may have.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use crate::budget::{Account, Held, Resource};

/// Refuses memory beyond the limit, so that the function sees a failed allocation.
pub struct MemoryLimit {
    pub bytes_max: usize,
    call: Arc<Account>,
    /// What was granted, for as long as the store lives.
    held: Option<Held>,
    /// Why memory below the instance's own limit was refused.
    pub exceeded: Option<String>,
    /// Memory beyond that limit was refused.
    pub is_full: bool,
}

impl MemoryLimit {
    /// For an instance of this call.
    pub fn new(bytes_max: usize, call: Arc<Account>) -> Self {
        Self { bytes_max, call, held: None, exceeded: None, is_full: false }
    }

    /// How much it has.
    pub fn bytes(&self) -> u64 {
        self.held.as_ref().map_or(0, Held::amount)
    }

    /// Another call begins: what the one before was refused is not its own.
    pub fn renew(&mut self) {
        (self.exceeded, self.is_full) = (None, false);
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.bytes_max {
            self.is_full = true;
            return Ok(false);
        }
        let more = desired.saturating_sub(current) as u64;
        let granted = match &mut self.held {
            Some(held) => held.grow(more),
            None => self.call.hold(Resource::InstanceBytes, more).map(|held| self.held = Some(held)),
        };
        let Err(exceeded) = granted else { return Ok(true) };
        // Where it alone is more than there may ever be, to wait would not help: that is the function's own.
        let alone = self.held.as_ref().map_or(0, Held::amount).saturating_add(more);
        self.exceeded = (alone <= exceeded.limit).then(|| exceeded.to_string());
        Ok(false)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(maximum.is_none_or(|maximum| desired <= maximum))
    }
}
