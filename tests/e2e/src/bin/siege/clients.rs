//! Clients that stay and do nothing, from addresses of their own, and one that reads pages meanwhile.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use e2e::http;

use crate::attacks::{Field, more};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// So long a client stays, whether the host has let it go or not.
const STAY: Duration = Duration::from_secs(14);
const STEP: Duration = Duration::from_millis(500);
const PAGES: [&str; 3] = ["/", "/api/streams", "/api/aggregates?stream=exchanges&limit=10"];

/// So many at a time.
pub struct Crowd<'a> {
    pub size: usize,
    /// 127.0.0.n: one of its own, as the bounds of an address are.
    pub address: u8,
    pub port: u16,
    /// What each says before it falls silent.
    pub says: &'a str,
}

impl Crowd<'_> {
    /// All of them come, and a part of them is replaced all the time.
    pub fn stay(&self, field: &Field<'_>) {
        let steps = usize::try_from(STAY.as_millis() / STEP.as_millis()).unwrap();
        let mut here: Vec<Option<TcpStream>> = (0..self.size).map(|_| self.come(field)).collect();
        let mut next = 0;
        while field.goes_on() {
            field.pause(STEP);
            for _ in 0..self.size.div_ceil(steps) {
                // The old one goes first.
                here[next] = None;
                here[next] = self.come(field);
                next = (next + 1) % self.size;
            }
        }
    }

    /// None where it is not let in.
    fn come(&self, field: &Field<'_>) -> Option<TcpStream> {
        if !field.goes_on() {
            return None;
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
        // Not every system has these addresses without being told; then all come from the first.
        let _ = socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, self.address), 0)).into());
        let host = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        socket.connect_timeout(&host.into(), CONNECT_TIME_MAX).ok()?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(self.says.as_bytes()).ok()?;
        more(&field.counts.clients);
        Some(stream)
    }
}

/// Asks the dashboard, ten times a second.
pub fn read_pages(field: &Field<'_>) {
    for path in PAGES.iter().cycle() {
        if !field.goes_on() {
            return;
        }
        let began = Instant::now();
        let answer = http::try_get(field.host.listen, path);
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap();
        field.counts.page_ms_max.fetch_max(millis, Ordering::Relaxed);
        more(&field.counts.pages);
        if answer.is_none_or(|answer| answer.status != 200) {
            more(&field.counts.pages_failed);
        }
        field.pause(Duration::from_millis(100));
    }
}
