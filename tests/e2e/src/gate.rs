//! A door before a server: connections pass while it is open, and are cut when it closes.

use std::time::Duration;

/// A door before an address.
pub struct Gate {
    port: u16,
    open: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Gate {
    pub fn closed(target: &str) -> Self {
        use std::sync::atomic::Ordering::Relaxed;
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (target, is_open) = (target.to_owned(), std::sync::Arc::clone(&open));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if !is_open.load(Relaxed) {
                    continue;
                }
                let Ok(server) = std::net::TcpStream::connect(&target) else { continue };
                for (from, to) in [(client.try_clone(), server.try_clone()), (server.try_clone(), client.try_clone())] {
                    let (from, to, is_open) = (from.unwrap(), to.unwrap(), std::sync::Arc::clone(&is_open));
                    from.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    std::thread::spawn(move || pass(&from, &to, &is_open));
                }
            }
        });
        Self { port, open }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn open(&self) {
        self.open.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    pub fn close(&self) {
        self.open.store(false, std::sync::atomic::Ordering::Relaxed);
    }
}

fn pass(mut from: &std::net::TcpStream, mut to: &std::net::TcpStream, is_open: &std::sync::atomic::AtomicBool) {
    use std::io::{ErrorKind, Read, Write};
    let mut buffer = [0; 16 * 1024];
    while is_open.load(std::sync::atomic::Ordering::Relaxed) {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}
