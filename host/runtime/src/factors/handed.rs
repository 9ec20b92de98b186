//! Lists that are handed to a guest as a stream, and stay charged to its call until it has read them.

use std::pin::Pin;
use std::task::{Context, Poll};

use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, StreamProducer, StreamResult, VecBuffer};

use crate::budget::Held;

/// Items, and the guard of what they take.
pub struct Handed<T> {
    items: Vec<T>,
    held: Option<Held>,
}

impl<T> Handed<T> {
    pub fn new(items: Vec<T>, held: Option<Held>) -> Self {
        Self { items, held }
    }
}

impl<T, D> StreamProducer<D> for Handed<T>
where
    T: Unpin + Send + Sync + 'static,
{
    type Item = T;
    type Buffer = VecBuffer<T>;

    /// Gives everything at once; it is asked again when that was read, and ends.
    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: StoreContextMut<'a, D>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        _: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if self.items.is_empty() {
            self.held = None;
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        destination.set_buffer(std::mem::take(&mut self.items).into());
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
