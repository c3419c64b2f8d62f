//! What a cluster stands on, and how it breaks: a real Redis, and a wire that can be cut.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A `redis-server` of its own, which keeps every acknowledged write on disk.
pub(crate) struct Redis {
    folder: PathBuf,
    pub(crate) port: u16,
    process: Child,
}

impl Redis {
    pub(crate) fn start(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let process = Self::spawn(&folder, port);
        let redis = Self { folder, port, process };
        redis.wait_until_up();
        redis
    }

    fn spawn(folder: &PathBuf, port: u16) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("redis-server is missing: apt-get install redis-server")
    }

    fn wait_until_up(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.ask("PING").is_none_or(|answer| !answer.starts_with("+PONG")) {
            assert!(Instant::now() < deadline, "redis-server does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The first bytes of the answer to one inline command.
    pub(crate) fn ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..read]).into_owned())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// The same data on the same port.
    pub(crate) fn start_again(&mut self) {
        self.process = Self::spawn(&self.folder, self.port);
        self.wait_until_up();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A wire to a port: what goes in comes out, until it is cut. A cut wire is silent, as a network is
/// that drops everything; its connections stay open.
pub(crate) struct Wire {
    pub(crate) port: u16,
    cut: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
}

impl Wire {
    pub(crate) fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (is_cut, ended) = (cut.clone(), end.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(near) = stream else { continue };
                let address = SocketAddr::from(([127, 0, 0, 1], target));
                // Who dials over a cut wire waits: nothing refuses him.
                while is_cut.load(Ordering::SeqCst) && !ended.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                let Ok(far) = TcpStream::connect(address) else { continue };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (is_cut, ended) = (is_cut.clone(), ended.clone());
                    std::thread::spawn(move || pass(from, to, &is_cut, &ended));
                }
            }
        });
        Self { port, cut, end }
    }

    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    pub(crate) fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool, end: &AtomicBool) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        // Held back while the wire is cut, as TCP would send it again until the network is back.
        while cut.load(Ordering::SeqCst) && !end.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if end.load(Ordering::SeqCst) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
