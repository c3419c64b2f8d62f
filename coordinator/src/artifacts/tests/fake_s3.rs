//! As much of an S3 service as an object store asks for: PUT, GET with a range, HEAD, multipart uploads, and conditional
//! writes, over plain HTTP on a loopback port.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the service holds and what it will do.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    /// Parts of unfinished uploads, by upload and number.
    pub(super) parts: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    /// Method and target of every request.
    pub(super) asked: Vec<String>,
    /// So many requests fail before one succeeds.
    pub(super) failures: u32,
    /// Nobody is let in.
    pub(super) closed: bool,
}

/// A running service. It ends with the runtime.
#[derive(Debug, Clone)]
pub(super) struct FakeS3 {
    bucket: Arc<Mutex<Bucket>>,
    pub(super) endpoint: String,
}

struct Asked {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn answer(status: &'static str, body: impl Into<Vec<u8>>) -> Answer {
    Answer { status, headers: Vec::new(), body: body.into() }
}

impl FakeS3 {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let fake = Self { bucket: Arc::default(), endpoint };
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        fake
    }

    pub(super) fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap()
    }

    async fn serve(self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        while let Some(asked) = read(&mut stream).await {
            let head = asked.method == "HEAD";
            let Answer { status, headers, body } = self.bucket().answer(asked);
            let mut text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
            for (name, value) in headers {
                text += &format!("{name}: {value}\r\n");
            }
            text += "\r\n";
            let body = if head { &[][..] } else { &body };
            if stream.write_all(&[text.as_bytes(), body].concat()).await.is_err() {
                return;
            }
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let (method, target) = line.strip_suffix("\r\n")?.strip_suffix(" HTTP/1.1")?.split_once(' ')?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.to_owned())
    };
    let mut asked = Asked {
        method: method.to_owned(),
        path: path.to_owned(),
        query: pairs.map(pair).collect(),
        headers: BTreeMap::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        asked.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = asked.headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    asked.body = vec![0; length];
    stream.read_exact(&mut asked.body).await.ok()?;
    Some(asked)
}

impl Bucket {
    fn answer(&mut self, asked: Asked) -> Answer {
        self.asked.push(format!("{} {}", asked.method, asked.path));
        if self.failures > 0 {
            self.failures -= 1;
            return answer("500 Internal Server Error", "ordered");
        }
        let signed = asked.headers.get("authorization").is_some_and(|a| a.contains("Credential=AKIDTEST/"));
        if self.closed || !signed {
            return answer("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>");
        }
        let key = asked.path.clone();
        match (asked.method.as_str(), asked.query.get("uploadId").cloned()) {
            ("POST", None) => self.begin(&key),
            ("POST", Some(upload)) => self.complete(&key, &upload),
            ("PUT", Some(upload)) => {
                let number = asked.query["partNumber"].parse().unwrap();
                let Some(parts) = self.parts.get_mut(&upload) else { return answer("404 Not Found", "") };
                parts.insert(number, asked.body);
                Answer { headers: vec![("ETag", format!("\"{number}\""))], ..answer("200 OK", "") }
            }
            ("DELETE", Some(upload)) => {
                self.parts.remove(&upload);
                answer("204 No Content", "")
            }
            ("PUT", None) => {
                if asked.headers.get("if-none-match").is_some_and(|v| v == "*") && self.objects.contains_key(&key) {
                    return answer("412 Precondition Failed", "<Error><Code>PreconditionFailed</Code></Error>");
                }
                self.objects.insert(key, asked.body);
                Answer { headers: vec![("ETag", "\"1\"".into())], ..answer("200 OK", "") }
            }
            ("GET" | "HEAD", None) => self.look(&key, asked.headers.get("range")),
            _ => answer("501 Not Implemented", ""),
        }
    }

    fn begin(&mut self, key: &str) -> Answer {
        let upload = format!("upload-{}", self.parts.len());
        self.parts.insert(upload.clone(), BTreeMap::new());
        let xml = format!(
            "<InitiateMultipartUploadResult><Key>{key}</Key><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        );
        answer("200 OK", xml)
    }

    fn complete(&mut self, key: &str, upload: &str) -> Answer {
        let Some(parts) = self.parts.remove(upload) else { return answer("404 Not Found", "") };
        // As the real one: only the last part may be short.
        let short = parts.values().rev().skip(1).any(|part| part.len() < 5 << 20);
        if short || parts.is_empty() {
            return answer("400 Bad Request", "<Error><Code>EntityTooSmall</Code></Error>");
        }
        self.objects.insert(key.to_owned(), parts.into_values().flatten().collect());
        let xml = format!(
            "<CompleteMultipartUploadResult><Key>{key}</Key><ETag>\"1\"</ETag></CompleteMultipartUploadResult>"
        );
        answer("200 OK", xml)
    }

    fn look(&self, key: &str, range: Option<&String>) -> Answer {
        let Some(object) = self.objects.get(key) else {
            return answer("404 Not Found", "<Error><Code>NoSuchKey</Code></Error>");
        };
        let mut headers = vec![("ETag", "\"1\"".into()), ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT".to_owned())];
        let Some(range) = range else { return Answer { headers, ..answer("200 OK", object.clone()) } };
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let last = last.min(object.len() - 1);
        headers.push(("Content-Range", format!("bytes {first}-{last}/{}", object.len())));
        Answer { headers, ..answer("206 Partial Content", &object[first..=last]) }
    }
}
