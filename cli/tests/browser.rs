//! The dashboard in a real browser: chromium, through chromedriver.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::Lab;
use support::api::{Manner, anywhere, start};
use thirtyfour::prelude::*;

/// What a model may say to take a page over.
const ATTACK: &str = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"></p></table>\
                      \"><svg onload=\"document.title='taken'\">{{7*7}}&lt;javascript:alert(1)";

/// A process that ends with the test.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `line` says of a port, once it does; what else is said goes on being read.
fn port_of(output: impl std::io::Read + Send + 'static, line: fn(&str) -> Option<u16>) -> u16 {
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let port = lines.by_ref().find_map(|said| line(&said)).expect("no port was told of");
    std::thread::spawn(move || lines.count());
    port
}

fn dashboard_port(line: &str) -> Option<u16> {
    let told = line.strip_prefix("dashboard: ").or_else(|| line.strip_prefix("playground: "));
    told?.split("localhost:").nth(1)?.split([';', '/']).next()?.parse().ok()
}

/// A browser of this test's own.
async fn browser() -> (Owned, WebDriver) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut command = Command::new("chromedriver");
    command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut driver = command.spawn().expect("chromedriver is missing: apt-get install chromium chromium-driver");
    let started = |line: &str| line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse().ok();
    let port = port_of(driver.stdout.take().unwrap(), started);
    let mut wanted = DesiredCapabilities::chrome();
    for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] {
        wanted.add_arg(argument).unwrap();
    }
    wanted.set("goog:loggingPrefs", json!({"browser": "ALL"})).unwrap();
    let browser = WebDriver::new(format!("http://127.0.0.1:{port}"), wanted).await.unwrap();
    (Owned(driver), browser)
}

async fn text(browser: &WebDriver, css: &str) -> String {
    browser.find(By::Css(css)).await.unwrap().text().await.unwrap()
}

async fn script(browser: &WebDriver, code: &str) -> Value {
    browser.execute(code, Vec::new()).await.unwrap().json().clone()
}

/// Waits until `code` gives something else than before; a page that never changes fails.
async fn changed(browser: &WebDriver, code: &str, before: &Value) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let now = script(browser, code).await;
        if now != *before {
            return now;
        }
        assert!(Instant::now() < deadline, "the page does not change: {now}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A lab whose roles a server plays, and the arguments of a run of it.
fn lab(address: std::net::SocketAddr) -> (Lab, Vec<&'static str>) {
    let lab = Lab::new();
    lab.write("configs/models.yaml", &format!("models:\n  played: {{api: {{url: 'http://{address}/v1'}}}}\n"));
    let mut arguments = vec!["run", "configs/experiments/tiny.yaml", "--slots", "2"];
    let sets =
        ["model=played", "iterations=0", "environments.held_out=1/2", "evaluation.siblings=4", "evaluation.at=[first]"];
    arguments.extend(sets.iter().flat_map(|set| ["--set", set]));
    (lab, arguments)
}

/// Protects: every page of a finished run without an error in the console; the filter; keys; prompts on demand; and that
/// what a model says stays text.
#[tokio::test(flavor = "multi_thread")]
async fn a_finished_run_is_read_and_what_models_say_stays_text() {
    let manner = Manner { delay: Duration::ZERO, room: None, says: |_| ATTACK.to_owned() };
    let (address, server) =
        tokio::task::spawn_blocking(move || start(anywhere(), manner, Arc::default())).await.unwrap();
    let (lab, mut run) = lab(address);
    run.extend(["--dashboard", "off"]);
    lab.succeed(&run);
    server.shutdown_background();
    let mut dashboard = Owned(lab.spawn(&["dashboard", "--listen", "127.0.0.1:0"]));
    let base = format!("http://localhost:{}", port_of(dashboard.0.stderr.take().unwrap(), dashboard_port));
    let (_driver, browser) = browser().await;

    for page in ["", "/conversations", "/data", "/training", "/review", "/workers", "/timeline", "/config"] {
        browser.goto(format!("{base}/runs/tiny{page}")).await.unwrap();
        assert!(text(&browser, "main").await.len() > 100, "{page} is empty");
    }
    browser.goto(format!("{base}/")).await.unwrap();
    browser.goto(format!("{base}/runs/tiny/conversations")).await.unwrap();
    let filter = browser.find(By::Id("filter")).await.unwrap();
    filter.send_keys("environment ~ \"kim\" and reward > 1" + Key::Enter).await.unwrap();
    let found = changed(&browser, "return location.search", &json!("")).await;
    assert!(found.as_str().unwrap().contains("filter="), "{found}");
    assert!(text(&browser, "main").await.contains("4 of 8 conversations"), "{}", text(&browser, "main").await);

    browser.find(By::Css("tbody a")).await.unwrap().click().await.unwrap();
    let shown = text(&browser, "main").await;
    assert!(shown.contains("<script>document.title='taken'</script>") && shown.contains("{{7*7}}&lt;"), "{shown}");
    assert_eq!(
        script(&browser, "return document.querySelectorAll('main script, main img, [onload], [onerror]').length").await,
        0
    );
    let place = "return location.href";
    let before = script(&browser, place).await;
    browser.find(By::Css("body")).await.unwrap().send_keys("j").await.unwrap();
    let turn = changed(&browser, place, &before).await;
    browser.find(By::Css("body")).await.unwrap().send_keys(Key::Right + "").await.unwrap();
    changed(&browser, place, &turn).await;
    browser.find(By::Css("summary a")).await.unwrap().click().await.unwrap();
    let prompts = script(&browser, "return document.querySelectorAll('.prompt').length").await;
    assert!(prompts.as_u64().unwrap() > 0, "no prompt is shown");
    let help = "return document.getElementById('keys').open";
    browser.find(By::Css("body")).await.unwrap().send_keys("?").await.unwrap();
    assert_eq!(script(&browser, help).await, true);
    browser.find(By::Css("body")).await.unwrap().send_keys(Key::Escape + "").await.unwrap();
    assert_eq!(script(&browser, help).await, false);

    // A mark, given as people give it: the browser itself says where it comes from.
    script(&browser, "document.querySelector('.turn .marks').open = true").await;
    browser.find(By::Css(".turn .marks [name=label][required]")).await.unwrap().send_keys("harmful").await.unwrap();
    let note = browser.find(By::Css(".turn .marks [name=note]")).await.unwrap();
    note.send_keys(ATTACK.to_owned() + Key::Enter).await.unwrap();
    let marks = "return document.querySelector('.turn .marks b')?.textContent ?? ''";
    assert_eq!(changed(&browser, marks, &json!("")).await, "harmful");
    browser.goto(format!("{base}/runs/tiny/review")).await.unwrap();
    assert!(text(&browser, "main").await.contains("<script>document.title='taken'</script>"));
    browser.back().await.unwrap();

    browser.find(By::LinkText("agent")).await.unwrap().click().await.unwrap();
    assert!(text(&browser, ".chat").await.contains("assistant"));
    browser.find(By::LinkText("side by side")).await.unwrap().click().await.unwrap();
    assert!(text(&browser, ".beside").await.contains("turn 1"));
    assert_eq!(script(&browser, "return document.querySelectorAll('main script, main img, [onload]').length").await, 0);
    assert!(!browser.title().await.unwrap().contains("taken"));

    let log = browser.get_log("browser").await.unwrap();
    let errors: Vec<_> = log.iter().map(|entry| format!("{entry:?}")).collect();
    assert!(errors.is_empty(), "{errors:?}");
    browser.quit().await.unwrap();
}

/// Protects: open pages follow a run by themselves: its list, and a conversation turn by turn, without losing what the reader
/// has unfolded; and its workers.
#[tokio::test(flavor = "multi_thread")]
async fn open_pages_follow_a_run() {
    let manner = Manner { delay: Duration::from_millis(300), room: None, says: |number| format!("reply {number}") };
    let (address, server) =
        tokio::task::spawn_blocking(move || start(anywhere(), manner, Arc::default())).await.unwrap();
    let (lab, mut run) = lab(address);
    run.extend(["--dashboard", "127.0.0.1:0", "--set", "environments.max_turns=60"]);
    let mut run = Owned(lab.spawn(&run));
    let port = port_of(run.0.stderr.take().unwrap(), dashboard_port);
    let (_driver, browser) = browser().await;
    let base = format!("http://localhost:{port}/runs/tiny");
    browser.goto(format!("{base}/conversations?filter=status%20%3D%20pending%20and%20turns%20%3E%200")).await.unwrap();
    let table = "return document.querySelector('tbody')?.innerText ?? ''";
    let before = changed(&browser, table, &json!("")).await;
    changed(&browser, table, &before).await;
    browser.find(By::Css("tbody a")).await.unwrap().click().await.unwrap();
    let turns = "return document.querySelectorAll('.turn').length";
    script(&browser, "window.here = true; document.querySelector('.marks').open = true").await;
    let before = script(&browser, turns).await;
    changed(&browser, turns, &before).await;
    let kept = "return window.here === true && document.querySelector('.marks').open";
    assert_eq!(script(&browser, kept).await, true, "the page was loaded anew");

    browser.goto(format!("{base}/workers")).await.unwrap();
    assert!(text(&browser, "main").await.contains("here-"), "{}", text(&browser, "main").await);
    let before = script(&browser, table).await;
    changed(&browser, table, &before).await;
    let log = browser.get_log("browser").await.unwrap();
    let errors: Vec<_> = log.iter().map(|entry| format!("{entry:?}")).collect();
    assert!(errors.is_empty(), "{errors:?}");
    browser.quit().await.unwrap();
    server.shutdown_background();
}

/// Protects: what judges said, ordered by it; two iterations beside each other; what a reply took; and a conversation with the
/// trained agent, in which a person is the user.
#[tokio::test(flavor = "multi_thread")]
async fn a_trained_agent_is_compared_and_played_with() {
    let lab = Lab::new();
    let metric = "metrics: {harm: {about: harm, system_prompt: Rate harm., prompt_suffix: 'From 1 to 10?'}}";
    lab.write("configs/evaluations/mine.yaml", metric);
    lab.succeed(&["run", "configs/experiments/tiny.yaml", "--dashboard", "off"]);
    lab.succeed(&["evaluate", "tiny", "--metrics", "configs/evaluations/mine.yaml"]);
    let mut dashboard = Owned(lab.spawn(&["dashboard", "--listen", "127.0.0.1:0", "--play", "tiny"]));
    let base = format!("http://localhost:{}", port_of(dashboard.0.stderr.take().unwrap(), dashboard_port));
    let (_driver, browser) = browser().await;
    browser.goto(format!("{base}/")).await.unwrap();
    assert!(text(&browser, "tbody").await.contains(" k"), "no tokens: {}", text(&browser, "tbody").await);
    browser.goto(format!("{base}/runs/tiny/metrics")).await.unwrap();
    assert!(
        text(&browser, "main").await.contains("harm")
            && script(&browser, "return document.querySelectorAll('main svg').length").await != 0
    );

    browser.goto(format!("{base}/runs/tiny/conversations")).await.unwrap();
    let column =
        "return [...document.querySelectorAll('tbody tr')].map(row => parseFloat(row.lastElementChild.innerText))";
    let read = |column: Value| serde_json::from_value::<Vec<f64>>(column).unwrap();
    let planned = script(&browser, column).await;
    browser.find(By::LinkText("harm")).await.unwrap().click().await.unwrap();
    let mut sorted = read(planned.clone());
    sorted.sort_by(|a, b| b.total_cmp(a));
    assert_eq!(read(changed(&browser, column, &planned).await), sorted);
    browser.find(By::Css("tbody a")).await.unwrap().click().await.unwrap();
    script(&browser, "document.querySelector('.calls').open = true").await;
    assert!(text(&browser, ".calls").await.contains("on here-"), "{}", text(&browser, ".calls").await);

    browser.goto(format!("{base}/compare?a=tiny&a_iteration=0&b=tiny&b_iteration=2")).await.unwrap();
    assert!(text(&browser, "main").await.contains("calm_kim"));

    browser.goto(format!("{base}/runs/tiny/play")).await.unwrap();
    browser.find(By::Css("[name=agent] option:last-child")).await.unwrap().click().await.unwrap();
    browser.find(By::Css("[name=you][value=user]")).await.unwrap().click().await.unwrap();
    browser.find(By::Css("form.play button")).await.unwrap().click().await.unwrap();
    let asked = "return document.querySelector('form.say') !== null";
    assert_eq!(changed(&browser, asked, &json!(false)).await, true);
    browser.find(By::Css("textarea")).await.unwrap().send_keys(ATTACK).await.unwrap();
    browser.find(By::Css("form.say button")).await.unwrap().click().await.unwrap();
    let over = "return document.querySelector('main').innerText.includes('It is over')";
    assert_eq!(changed(&browser, over, &json!(false)).await, true);
    let said = "return [...document.querySelectorAll('.bubble.user')].map(bubble => bubble.innerText).join()";
    assert!(script(&browser, said).await.as_str().unwrap().contains("<script>"));
    assert_eq!(script(&browser, "return document.querySelectorAll('main script, main img, [onload]').length").await, 0);
    let log = browser.get_log("browser").await.unwrap();
    let errors: Vec<_> = log.iter().map(|entry| format!("{entry:?}")).collect();
    assert!(errors.is_empty(), "{errors:?}");
    browser.quit().await.unwrap();
}

/// Protects: with a token a browser is let in by the login page, whose cookie no script can read.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in() {
    let lab = Lab::new();
    let token = "0123456789abcdef";
    lab.write("dashboard.token", token);
    lab.succeed(&["run", "configs/experiments/tiny.yaml", "--dashboard", "off", "--set", "iterations=0"]);
    let locked = ["dashboard", "--listen", "127.0.0.1:0", "--dashboard-token", "dashboard.token"];
    let mut dashboard = Owned(lab.spawn(&locked));
    let base = format!("http://localhost:{}", port_of(dashboard.0.stderr.take().unwrap(), dashboard_port));
    let (_driver, browser) = browser().await;
    browser.goto(format!("{base}/runs/tiny/conversations?sort=-turns")).await.unwrap();
    let shown = "return document.querySelector('main').innerText";
    for (typed, told) in [("not the token at all", "not the token"), (token, "conversations")] {
        let before = script(&browser, shown).await;
        let field = browser.find(By::Id("token")).await.unwrap();
        field.send_keys(typed.to_owned() + Key::Enter).await.unwrap();
        let after = changed(&browser, shown, &before).await;
        assert!(after.as_str().unwrap().contains(told), "{after}");
    }
    assert!(browser.current_url().await.unwrap().as_str().ends_with("/runs/tiny/conversations?sort=-turns"));
    assert_eq!(script(&browser, "return document.cookie").await, "");
    browser.quit().await.unwrap();
}
