//! A door before a server: connections pass, are held back, or are cut.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// How often a held line looks whether it may go on.
const LOOK: Duration = Duration::from_millis(10);

/// What becomes of connections, old and new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Mode {
    /// They are cut.
    Closed,
    Open,
    /// They stay, and nothing passes: a network that is gone without a word.
    Held,
    /// What clients send passes, the answers are held back.
    Deaf,
    /// Answers come late.
    Slow,
}

const MODES: [Mode; 5] = [Mode::Closed, Mode::Open, Mode::Held, Mode::Deaf, Mode::Slow];
/// How late.
const SLOW: Duration = Duration::from_millis(300);

/// A door before an address.
pub struct Gate {
    port: u16,
    state: Arc<State>,
}

struct State {
    mode: AtomicU8,
    /// How often it was closed: a connection of before is cut, however short that was.
    closings: AtomicU64,
}

/// One direction of one connection.
struct Line {
    from: TcpStream,
    to: TcpStream,
    is_answer: bool,
    state: Arc<State>,
    /// When the connection was made.
    closings: u64,
}

impl Gate {
    pub fn closed(target: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { mode: AtomicU8::new(Mode::Closed as u8), closings: AtomicU64::new(0) });
        let (target, shared) = (target.to_owned(), Arc::clone(&state));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let closings = shared.closings.load(Ordering::SeqCst);
                if shared.mode() == Mode::Closed {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let line = |from: &TcpStream, to: &TcpStream, is_answer| Line {
                    from: from.try_clone().unwrap(),
                    to: to.try_clone().unwrap(),
                    is_answer,
                    state: Arc::clone(&shared),
                    closings,
                };
                for line in [line(&client, &server, false), line(&server, &client, true)] {
                    std::thread::spawn(move || line.pass());
                }
            }
        });
        Self { port, state }
    }

    pub fn opened(target: &str) -> Self {
        let gate = Self::closed(target);
        gate.open();
        gate
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn open(&self) {
        self.set(Mode::Open);
    }

    pub fn close(&self) {
        self.set(Mode::Closed);
        self.state.closings.fetch_add(1, Ordering::SeqCst);
    }

    pub fn hold(&self) {
        self.set(Mode::Held);
    }

    pub fn hold_answers(&self) {
        self.set(Mode::Deaf);
    }

    pub fn slow_answers(&self) {
        self.set(Mode::Slow);
    }

    fn set(&self, mode: Mode) {
        self.state.mode.store(mode as u8, Ordering::SeqCst);
    }
}

impl State {
    fn mode(&self) -> Mode {
        MODES[usize::from(self.mode.load(Ordering::SeqCst))]
    }
}

impl Line {
    /// Waits while this direction is held; false when the connection is cut.
    fn may_pass(&self) -> bool {
        loop {
            if self.state.closings.load(Ordering::SeqCst) != self.closings {
                return false;
            }
            match self.state.mode() {
                Mode::Closed => return false,
                Mode::Open | Mode::Slow => return true,
                Mode::Deaf if !self.is_answer => return true,
                Mode::Held | Mode::Deaf => std::thread::sleep(LOOK),
            }
        }
    }

    fn pass(mut self) {
        let mut buffer = vec![0; 64 * 1024];
        self.from.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        while self.may_pass() {
            match self.from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    if self.is_answer && self.state.mode() == Mode::Slow {
                        std::thread::sleep(SLOW);
                    }
                    // The door may have moved while the read waited.
                    if !self.may_pass() || self.to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        let _ = self.from.shutdown(Shutdown::Both);
        let _ = self.to.shutdown(Shutdown::Both);
    }
}
