//! A Redis server of this bench alone.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::options::StoreKind;

const START: Duration = Duration::from_secs(10);

/// It ends with this value.
pub(crate) struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// None if the store is another.
    pub(crate) fn of(store: StoreKind, folder: &Path) -> Option<Self> {
        let sync = match store {
            StoreKind::Sqlite => return None,
            StoreKind::Redis => "always",
            StoreKind::RedisEverysec => "everysec",
        };
        // Free now; another process hardly takes it within a moment.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
            // As docs/cluster.md advises: while Redis rewrites its file, it answers late.
            .args(["--appendfsync", sync, "--auto-aof-rewrite-percentage", "0", "--dir"])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let redis = Self { child, port };
        let end = Instant::now() + START;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It ends with this process at the latest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
