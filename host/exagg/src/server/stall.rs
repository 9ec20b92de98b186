//! A stream whose peer has to take what is written to it: who reads nothing, or too slowly, is let go, and
//! with the connection goes the instance that writes to it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// When the response that is being written has to be over. One a connection.
#[derive(Clone, Debug, Default)]
pub struct ResponseEnd(Arc<Mutex<Option<Instant>>>);

impl ResponseEnd {
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request came: there is no response yet.
    pub fn clear(&self) {
        *self.lock() = None;
    }

    /// The response has its head, and so much time to its end.
    pub fn start(&self, time_max: Duration) {
        *self.lock() = Some(Instant::now() + time_max);
    }

    fn get(&self) -> Option<Instant> {
        *self.lock()
    }
}

/// The stream. Reading passes through: hyper and the call's own time limit bound what is waited for there.
pub struct Unstalled<S> {
    stream: S,
    stall_max: Duration,
    end: ResponseEnd,
    /// Armed while a write is pending.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Unstalled<S> {
    pub fn new(stream: S, stall_max: Duration, end: ResponseEnd) -> Self {
        Self { stream, stall_max, end, timer: None }
    }

    /// What came of a write, or the end of the connection when its time is over.
    fn within_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let end = self.end.get();
        if end.is_some_and(|end| end <= Instant::now()) {
            return Poll::Ready(Err(too_slow("the peer took too long over a response")));
        }
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let stall_max = self.stall_max;
        let timer = self.timer.get_or_insert_with(|| {
            let stalled = Instant::now() + stall_max;
            Box::pin(tokio::time::sleep_until(end.map_or(stalled, |end| end.min(stalled))))
        });
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(too_slow("the peer does not take what is written to it")))
    }
}

fn too_slow(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstalled<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstalled<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.within_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.within_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        // Nothing was written: that a response is late is found when there is something to write.
        if flushed.is_ready() { flushed } else { self.within_time(cx, flushed) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(200);

    async fn write(stall_max: Duration, end: ResponseEnd, pause: Option<Duration>) -> io::Result<()> {
        let (stream, mut peer) = tokio::io::duplex(16);
        let reader = tokio::spawn(async move {
            let Some(pause) = pause else { return std::future::pending::<()>().await };
            let mut bytes = [0; 16];
            while peer.read(&mut bytes).await.is_ok_and(|read| read > 0) {
                tokio::time::sleep(pause).await;
            }
        });
        let mut stream = Unstalled::new(stream, stall_max, end);
        let written = stream.write_all(&[0; 160]).await;
        reader.abort();
        written
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_let_go() {
        let written = tokio::time::timeout(LONG, write(SHORT, ResponseEnd::default(), None)).await.unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_is_slow_keeps_its_connection() {
        // It takes longer altogether than it may take nothing.
        write(SHORT, ResponseEnd::default(), Some(SHORT / 5)).await.unwrap();
    }

    #[tokio::test]
    async fn a_response_has_an_end_however_it_is_read() {
        let end = ResponseEnd::default();
        end.start(SHORT);
        let written = tokio::time::timeout(LONG, write(LONG, end.clone(), Some(SHORT / 5))).await.unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // The next response has its own time.
        end.clear();
        write(LONG, end, Some(Duration::ZERO)).await.unwrap();
    }

    #[tokio::test]
    async fn a_response_has_an_end_while_nothing_of_it_is_taken() {
        let end = ResponseEnd::default();
        end.start(SHORT);
        let written = tokio::time::timeout(LONG, write(LONG, end, None)).await.unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
