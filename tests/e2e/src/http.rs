//! A small client, and a server that answers as it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TIME_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub fn get(port: u16, path: &str) -> Answer {
    try_get(port, path).unwrap_or_else(|| panic!("no answer from port {port} to {path}"))
}

/// A request that changes something, without a body.
pub fn post(port: u16, path: &str) -> Answer {
    request(port, "POST", path, TIME_MAX).unwrap_or_else(|| panic!("no answer from port {port} to {path}"))
}

/// None when nobody answers.
pub fn try_get(port: u16, path: &str) -> Option<Answer> {
    try_get_within(port, path, TIME_MAX)
}

/// None when nobody answers, or says nothing for so long.
pub fn try_get_within(port: u16, path: &str, time_max: Duration) -> Option<Answer> {
    request(port, "GET", path, time_max)
}

fn request(port: u16, method: &str, path: &str, time_max: Duration) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), time_max).ok()?;
    stream.set_read_timeout(Some(time_max)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        unchunked(body)
    } else {
        body.to_owned()
    };
    Some(Answer { status: head.split(' ').nth(1)?.parse().ok()?, headers: head.to_owned(), body })
}

fn unchunked(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        body += &rest[..size];
        text = &rest[size + 2..];
    }
    body
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// How the server behaves.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Status, extra header lines, body.
    Answer(u16, &'static str, String),
    /// Half an answer, then the line is cut.
    Cut,
    /// No answer for so long.
    Slow(Duration),
}

/// A server on loopback.
pub struct Server {
    pub port: u16,
    pub requests: Receiver<Request>,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Server {
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, requests) = channel();
        let behaviour = Arc::new(Mutex::new(behaviour));
        let shared = Arc::clone(&behaviour);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (behaviour, sender) = (Arc::clone(&shared), sender.clone());
                std::thread::spawn(move || answer(stream, &behaviour, &sender));
            }
        });
        Self { port, requests, behaviour }
    }

    /// Behaves otherwise from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// The next request.
    pub fn next(&self) -> Request {
        self.requests.recv_timeout(Duration::from_secs(30)).expect("a request in time")
    }
}

fn answer(mut stream: TcpStream, behaviour: &Mutex<Behaviour>, sender: &Sender<Request>) {
    let Some(request) = read(&stream) else { return };
    let behaviour = behaviour.lock().unwrap().clone();
    let _ = sender.send(request);
    match behaviour {
        Behaviour::Answer(status, headers, body) => {
            let _ = write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
                body.len()
            );
        }
        Behaviour::Cut => {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n[{{\"code\":");
        }
        Behaviour::Slow(time) => std::thread::sleep(time),
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let request = Request { line: line.trim().to_owned(), headers, body: String::new() };
    let mut body = Vec::new();
    if let Some(length) = request.header("content-length").and_then(|length| length.parse().ok()) {
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
    } else if request.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    Some(Request { body: String::from_utf8_lossy(&body).into_owned(), ..request })
}
