//! What is logged, as people see it.

use std::io;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Takes down everything that this process logs.
static LISTENING: LazyLock<()> = LazyLock::new(|| {
    tracing_subscriber::fmt().with_env_filter("info").with_ansi(false).with_writer(|| Pen).init();
});

struct Pen;

impl io::Write for Pen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn listen() {
    LazyLock::force(&LISTENING);
}

/// Everything that was logged so far.
pub(crate) fn logged() -> String {
    String::from_utf8(LOGGED.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
}

/// Waits for a line of a refusal that has all these parts.
pub(crate) async fn refusal(parts: &[&str]) {
    let found = |line: &str| line.contains("refused peer=127.0.0.1:") && parts.iter().all(|part| line.contains(part));
    for _ in 0..500 {
        if logged().lines().any(found) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no refusal with {parts:?} was logged:\n{}", logged());
}
