//! Real servers, and things between or instead of them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::store::{OpenStoreError, RedisAddress, RedisStore, StoreAddress};

/// A `redis-server` of its own, in a folder of its own; it ends with this value.
pub(super) struct Server {
    child: Option<Child>,
    folder: tempfile::TempDir,
    port: u16,
    settings: Vec<String>,
}

impl Server {
    /// One that keeps all it acknowledges.
    pub(super) fn start() -> Self {
        Self::with(&["--appendonly", "yes", "--appendfsync", "always", "--save", ""])
    }

    pub(super) fn with(settings: &[&str]) -> Self {
        let settings: Vec<String> = settings.iter().map(|&s| s.to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        // Another process may take the free port first.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(child) = launch(&folder, port, &settings) {
                return Self { child: Some(child), folder, port, settings };
            }
        }
        let log = std::fs::read_to_string(folder.path().join("redis.log")).unwrap_or_default();
        panic!("redis-server does not start:\n{log}");
    }

    /// As `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// On the same port and folder.
    pub(super) fn restart(&mut self) {
        self.kill();
        self.child = launch(&self.folder, self.port, &self.settings);
        assert!(self.child.is_some(), "the killed server does not start again");
    }

    /// `STOP` or `CONT`.
    pub(super) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    pub(super) fn at(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(super) fn url(&self) -> String {
        format!("redis://{}", self.at())
    }

    pub(super) async fn store(&self) -> RedisStore {
        open(&self.url()).await.unwrap().0
    }

    /// What the server answers to a command in one line.
    pub(super) fn tell(&self, command: &str) -> String {
        say(self.at(), command).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) fn address(url: &str) -> RedisAddress {
    match url.parse() {
        Ok(StoreAddress::Redis(address)) => address,
        other => panic!("{url}: {other:?}"),
    }
}

pub(super) async fn open(url: &str) -> Result<(RedisStore, Vec<String>), OpenStoreError> {
    RedisStore::open(&address(url)).await
}

fn launch(folder: &tempfile::TempDir, port: u16, settings: &[String]) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--logfile", "redis.log", "--dir"])
        .arg(folder.path())
        .args(settings)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("redis-server cannot be started ({e}): apt-get install redis-server"));
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        let answer = say(SocketAddr::from(([127, 0, 0, 1], port)), "PING").unwrap_or_default();
        if answer.starts_with("+PONG") || answer.starts_with("-NOAUTH") {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

fn say(at: SocketAddr, command: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    let mut answer = [0; 512];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// A way to a server that can lose an answer: the command arrives, then the connection ends.
pub(super) struct Lossy {
    pub(super) url: String,
    lose: Arc<AtomicBool>,
}

impl Lossy {
    pub(super) fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (to, lose) = (server.at(), Arc::new(AtomicBool::new(false)));
        let losing = lose.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                let server = TcpStream::connect(to).unwrap();
                let (from, into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pass(from, into, || false));
                let losing = losing.clone();
                std::thread::spawn(move || pass(server, client, || losing.swap(false, Ordering::SeqCst)));
            }
        });
        Self { url, lose }
    }

    /// Loses the next answer.
    pub(super) fn lose(&self) {
        self.lose.store(true, Ordering::SeqCst);
    }

    /// Whether the answer was lost.
    pub(super) fn lost(&self) -> bool {
        !self.lose.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut into: TcpStream, lose: impl Fn() -> bool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || lose() || into.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = into.shutdown(std::net::Shutdown::Both);
}

/// Something that answers what `answer` says to each line it hears, and its address.
pub(super) fn responder(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map(Result::unwrap) {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let lines = std::io::BufRead::lines(std::io::BufReader::new(stream.try_clone().unwrap()));
                for line in lines.map_while(Result::ok) {
                    if let Some(answer) = answer(&line)
                        && stream.write_all(answer.as_bytes()).is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    url
}
