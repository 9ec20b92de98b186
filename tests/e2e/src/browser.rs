//! A real Chromium, driven by Playwright (`tests/web/driver.mjs`).

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::{bound_command, root, wait_for};

/// One window at a time.
pub struct Browser {
    child: Child,
    /// None once the driver is to end.
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

/// The browser's program, where there is one.
fn program() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(|name| {
        let found = std::process::Command::new("sh").args(["-c", &format!("command -v {name}")]).output().ok()?;
        let path = String::from_utf8(found.stdout).ok()?.trim().to_owned();
        (!path.is_empty()).then(|| &*path.leak())
    })
}

impl Browser {
    /// None where Chromium or Node is missing, which in CI they must not be.
    pub fn start() -> Option<Self> {
        let driver = root().join("tests/web");
        let (Some(chromium), true) = (program(), driver.join("node_modules/playwright-core").is_dir()) else {
            assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: install chromium and npm");
            println!("Chromium or Node is not there: the page is not looked at");
            return None;
        };
        let mut child = bound_command("node")
            .arg(driver.join("driver.mjs"))
            .env("CHROMIUM", chromium)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Some(Self { child, to: Some(to), from })
    }

    /// Runs a command of the driver's.
    pub fn try_run(&mut self, command: &str, parameters: &Value) -> Result<Value, String> {
        let mut line = parameters.clone();
        line["command"] = command.into();
        writeln!(self.to.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.from.read_line(&mut answer).unwrap();
        let mut answer: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("the driver ended at {line}"));
        match answer["error"].take() {
            Value::String(error) => Err(error),
            _ => Ok(answer["value"].take()),
        }
    }

    pub fn run(&mut self, command: &str, parameters: &Value) -> Value {
        self.try_run(command, parameters).unwrap_or_else(|error| panic!("{command} {parameters}: {error}"))
    }

    pub fn open(&mut self, url: &str) {
        self.run("open", &json!({ "url": url }));
    }

    /// The text of the first element that fits; empty where there is none.
    pub fn text(&mut self, selector: &str) -> String {
        let text = self.try_run("text", &json!({ "selector": selector }));
        text.ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
    }

    pub fn count(&mut self, selector: &str) -> u64 {
        self.run("count", &json!({ "selector": selector })).as_u64().unwrap()
    }

    pub fn click(&mut self, selector: &str) {
        self.run("click", &json!({ "selector": selector }));
    }

    /// Waits for an element, with a text in it where one is given.
    pub fn wait(&mut self, selector: &str, text: Option<&str>) {
        self.run("wait", &json!({ "selector": selector, "text": text }));
    }

    /// Waits until an element's text is as it should be, and says how long that took.
    pub fn until(&mut self, selector: &str, timeout: Duration, is: impl Fn(&str) -> bool) -> Duration {
        let began = std::time::Instant::now();
        let mut last = String::new();
        while began.elapsed() < timeout {
            last = self.text(selector);
            if is(&last) {
                return began.elapsed();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("after {timeout:?} {selector} says {last:?}");
    }

    /// Nothing went wrong in the window so far, and axe has nothing serious to say.
    pub fn is_well(&mut self, what: &str) {
        let errors = self.run("errors", &json!({}));
        assert_eq!(errors, json!([]), "{what}: errors in the console");
        let broken = self.run("axe", &json!({}));
        assert_eq!(broken, json!([]), "{what}: axe");
    }

    /// Keeps a picture of the page below `target/screenshots`.
    pub fn screenshot(&mut self, name: &str) {
        let folder = root().join("target/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        self.run("screenshot", &json!({ "path": folder.join(format!("{name}.png")) }));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends with its input, and closes the browser.
        self.to = None;
        for _ in 0..50 {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a page is served.
pub fn served(url: &str, port: u16, path: &str) {
    wait_for(url, Duration::from_secs(60), || crate::http::try_get(port, path).filter(|answer| answer.status == 200));
}
