//! The least HTTP that tests of a server need.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;

use serde_json::Value;

use super::{Lab, json};

/// `influence serve` on a free port; it ends with this.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) port: u16,
    /// What it said of itself when it was ready.
    pub(crate) told: String,
}

impl Server {
    pub(crate) fn start(lab: &Lab, options: &[&str]) -> Self {
        Self::with(lab.command(&[&["serve", "--listen", "127.0.0.1:0"][..], options].concat()))
    }

    pub(crate) fn with(mut command: std::process::Command) -> Self {
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut said = Vec::new();
        let told = lines.by_ref().inspect(|line| said.push(line.clone())).find(|line| line.starts_with("serving "));
        let told = told.unwrap_or_else(|| panic!("it does not serve: {said:?}"));
        std::thread::spawn(move || lines.count());
        let port = told.split("http://").nth(1).unwrap().split(['/', ';']).next().unwrap();
        let port = port.rsplit(':').next().unwrap().parse().unwrap();
        Self { process, port, told }
    }

    /// The answer to a request with these headers, `\r\n` after each.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.begin(method, path, headers, body);
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).unwrap();
        Answer::read(&raw)
    }

    /// A request whose answer has not been read.
    pub(crate) fn begin(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let host = if headers.contains("host:") { String::new() } else { format!("host: localhost:{}\r\n", self.port) };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\n{host}{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, "content-type: application/json\r\n", &body.to_string())
    }

    pub(crate) fn chat(&self, body: &Value) -> Answer {
        self.post("/v1/chat/completions", body)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Answer {
    fn read(raw: &[u8]) -> Self {
        let split = raw.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let headers = String::from_utf8(raw[..split].to_vec()).unwrap().to_lowercase();
        let body = &raw[split + 4..];
        let chunked = headers.contains("transfer-encoding: chunked");
        let body = if chunked { dechunked(body) } else { body.to_vec() };
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, headers, body: String::from_utf8(body).unwrap() }
    }

    /// The body of an answer that must be a success.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        json(&self.body)
    }

    /// Status and error of an answer that must be one.
    pub(crate) fn error(&self) -> (u16, Value) {
        let error = json(&self.body)["error"].clone();
        for key in ["message", "type", "param", "code"] {
            assert!(error.get(key).is_some(), "{key} is missing: {}", self.body);
        }
        (self.status, error)
    }

    /// The data of an event stream that must end properly.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert!(self.status == 200 && self.headers.contains("text/event-stream"), "{} {}", self.headers, self.body);
        let mut data: Vec<&str> = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{}", self.body);
        data.into_iter().map(json).collect()
    }
}

fn dechunked(mut raw: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let line = raw.iter().position(|byte| *byte == b'\r').unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&raw[..line]).unwrap(), 16).unwrap();
        whole.extend_from_slice(&raw[line + 2..line + 2 + size]);
        raw = &raw[line + size + 4..];
        if size == 0 {
            return whole;
        }
    }
}
