//! Fetching against a small HTTP server on loopback.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, SystemTime},
};

use base::Bytes;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;

mod pip;

/// One request as the server saw it: the path and the first byte asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    path: String,
    from: Option<usize>,
}

type Answer = dyn Fn(&Asked, &mut TcpStream) -> io::Result<()> + Send + Sync;

struct Server {
    endpoint: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Answers every connection by `answer`, each on its own thread, until the test ends.
    fn new(answer: impl Fn(&Asked, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer): (_, Arc<Answer>) = (asked.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (log.clone(), answer.clone());
                thread::spawn(move || {
                    let mut stream = stream;
                    if let Some(request) = read_request(&stream) {
                        log.lock().unwrap().push(request.clone());
                        let _ = answer(&request, &mut stream);
                    }
                });
            }
        });
        Server { endpoint, asked }
    }

    /// A well-behaved server of one content under every path.
    fn of(content: Vec<u8>) -> Server {
        Server::new(move |asked, to| send(to, &content, asked.from))
    }

    fn ranges(&self) -> Vec<Option<usize>> {
        self.asked.lock().unwrap().iter().map(|asked| asked.from).collect()
    }
}

fn read_request(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let headers: HashMap<String, String> = lines
        .map_while(|line| line.ok().filter(|line| !line.is_empty()))
        .filter_map(|line| line.split_once(':').map(|(k, v)| (k.to_lowercase(), v.trim().to_owned())))
        .collect();
    let from =
        headers.get("range").map(|r| r.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
    Some(Asked { path, from })
}

fn send(to: &mut TcpStream, content: &[u8], from: Option<usize>) -> io::Result<()> {
    match from {
        None => head(to, "200 OK", &format!("Content-Length: {}", content.len()))?,
        Some(from) if from >= content.len() => head(to, "416 Range Not Satisfiable", "Content-Length: 0")?,
        Some(from) => {
            let (rest, last) = (content.len() - from, content.len() - 1);
            let range =
                format!("Content-Length: {rest}\r\nContent-Range: bytes {from}-{last}/{}", content.len());
            head(to, "206 Partial Content", &range)?;
        }
    }
    to.write_all(content.get(from.unwrap_or(0)..).unwrap_or_default())
}

fn head(to: &mut TcpStream, status: &str, headers: &str) -> io::Result<()> {
    write!(to, "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n\r\n")
}

/// Hears everything and may pass messages on.
#[derive(Default)]
struct Heard {
    messages: Vec<String>,
    done: Bytes,
    on_message: Option<mpsc::Sender<String>>,
}

impl Heard {
    fn has(&self, part: &str) -> bool {
        self.messages.iter().any(|message| message.contains(part))
    }
}

impl Progress for Heard {
    fn message(&mut self, text: &str) {
        self.messages.push(text.to_owned());
        if let Some(to) = &self.on_message {
            let _ = to.send(text.to_owned());
        }
    }
    fn bytes(&mut self, done: Bytes, _total: Option<Bytes>) {
        self.done = done;
    }
}

/// A cache in a temporary directory, a card of one file, and what that file should hold.
struct Setup {
    dir: TempDir,
    card: Card,
    content: Vec<u8>,
    config: FetchConfig,
    heard: Heard,
}

const HUB: &str = r#"{ hf = { repo = "a/one", revision = "main", path = "m.gguf" } }"#;
const SECOND_HUB: &str = r#"{ hf = { repo = "b/two", revision = "main", path = "m.gguf" } }"#;
const PYPI: &str = r#"{ pypi = { package = "tiny", version = "1.0", member = "tiny/m.gguf" } }"#;

fn content() -> Vec<u8> {
    (0..600_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn card(files: &str) -> Card {
    let format = if files.contains(".safetensors") { "safetensors" } else { "gguf" };
    let text = format!(
        "id = \"tiny\"\nname = \"T\"\nfamily = \"f\"\nparameters = \"1\"\ncontext = 1\nlicence = \"MIT\"\n\
         format = \"{format}\"\nquantisation = \"F32\"\n{files}"
    );
    Card::parse(Path::new("tiny.toml"), &text).unwrap()
}

impl Setup {
    fn new(sources: &[&str]) -> Setup {
        let content = content();
        let sum = Sha256Sum(Sha256::digest(&content).into());
        let known = format!("bytes = {}\nsha256 = \"{sum}\"\n", content.len());
        Setup::with(sources, &known)
    }

    fn with(sources: &[&str], known: &str) -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let file = format!("[[files]]\nname = \"m.gguf\"\n{known}sources = [{}]\n", sources.join(", "));
        let short =
            Limits { response: Duration::from_secs(20), retry_pause: Duration::ZERO, ..Limits::default() };
        let python = concat!(env!("CARGO_MANIFEST_DIR"), "/src/models/fetch/tests/fake_python.sh").to_owned();
        // Port 1 of loopback refuses at once: a test that needs the hub names its own server.
        let hub_endpoint = "http://127.0.0.1:1".to_owned();
        let config =
            FetchConfig { hub_endpoint, python, limits: short, ..FetchConfig::new(dir.path().join("cache")) };
        Setup { dir, card: card(&file), content: content(), config, heard: Heard::default() }
    }

    fn hub(mut self, server: &Server) -> Setup {
        self.config.hub_endpoint = server.endpoint.clone();
        self
    }

    fn ensure(&mut self) -> Result<PathBuf, FetchError> {
        Fetcher::new(self.config.clone()).ensure(&self.card, &mut self.heard)
    }

    /// Expects success with the right content and nothing left over.
    fn ensure_good(&mut self) {
        let path = self.ensure().unwrap_or_else(|error| panic!("{error}\n{:#?}", self.heard.messages));
        assert_eq!(path, self.at("m.gguf"));
        assert!(fs::read(path).unwrap() == self.content);
        assert!(!self.at("m.gguf.partial").exists() && !self.at("m.gguf.pip").exists());
        assert!(Fetcher::new(self.config.clone()).is_cached(&self.card));
    }

    fn failures(&mut self) -> Vec<SourceFailure> {
        match self.ensure() {
            Err(FetchError::AllSourcesFailed { failures, .. }) => failures,
            other => panic!("{other:?}"),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.config.cache_dir.join("models/tiny").join(name)
    }

    fn put(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.at("")).unwrap();
        fs::write(self.at(name), content).unwrap();
    }
}

#[test]
fn a_file_is_fetched_once_and_then_found() {
    let server = Server::of(content());
    let mut setup = Setup::new(&[HUB]).hub(&server);
    setup.ensure_good();
    assert!(setup.heard.has("is not in the cache") && setup.heard.has("from Hugging Face a/one"));
    assert_eq!(setup.heard.done.0, 600_000);
    setup.heard = Heard::default();
    setup.ensure_good();
    assert_eq!(setup.heard.messages, [""; 0], "a known file is neither hashed nor fetched");
    let path = "/a/one/resolve/main/m.gguf".to_owned();
    assert_eq!(*server.asked.lock().unwrap(), [Asked { path, from: None }]);
}

#[test]
fn a_transfer_that_was_cut_goes_on_where_it_ended() {
    let whole = content();
    let server = Server::new(move |asked, to| match asked.from {
        None => {
            head(to, "200 OK", "Content-Length: 600000")?;
            to.write_all(&whole[..250_000])
        }
        from => send(to, &whole, from),
    });
    let mut setup = Setup::new(&[HUB]).hub(&server);
    setup.ensure_good();
    assert_eq!(server.ranges(), [None, Some(250_000)]);
    assert!(setup.heard.has("going on at 250.0 kB"), "{:?}", setup.heard.messages);
}

#[test]
fn what_an_earlier_run_left_is_used() {
    let server = Server::of(content());
    let mut setup = Setup::new(&[HUB]).hub(&server);
    setup.put("m.gguf.partial", &content()[..599_999]);
    setup.ensure_good();
    assert_eq!(server.ranges(), [Some(599_999)]);
}

#[test]
fn a_complete_partial_needs_no_request() {
    let mut setup = Setup::new(&[HUB]);
    setup.put("m.gguf.partial", &content());
    setup.ensure_good();
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let whole = content();
    let server = Server::new(move |_, to| send(to, &whole, None));
    let mut setup = Setup::new(&[HUB]).hub(&server);
    setup.put("m.gguf.partial", b"the beginning of something else");
    setup.ensure_good();
    assert_eq!(server.ranges(), [Some(31)]);
}

#[test]
fn a_range_the_server_does_not_have_starts_over() {
    for status in ["416 Range Not Satisfiable", "206 Partial Content"] {
        let whole = content();
        let server = Server::new(move |asked, to| match asked.from {
            Some(_) => head(to, status, "Content-Length: 0\r\nContent-Range: bytes 0-9/600000"),
            None => send(to, &whole, None),
        });
        let mut setup = Setup::new(&[HUB]).hub(&server);
        setup.put("m.gguf.partial", b"stale");
        setup.ensure_good();
        assert_eq!(server.ranges(), [Some(5), None]);
    }
}

#[test]
fn a_wrong_beginning_is_set_aside_and_fetched_again() {
    let server = Server::of(content());
    let mut setup = Setup::new(&[HUB]).hub(&server);
    setup.put("m.gguf.partial", &[7; 1000]);
    setup.ensure_good();
    assert_eq!(server.ranges(), [Some(1000), None]);
    assert_eq!(fs::read(setup.at("m.gguf.bad-1")).unwrap()[..1000], [7; 1000]);
}

#[test]
fn a_wrong_sum_is_set_aside_and_the_next_source_tried() {
    let whole = content();
    let server = Server::new(move |asked, to| {
        let wrong = asked.path.starts_with("/a/one");
        if wrong { send(to, &[1; 600_000], asked.from) } else { send(to, &whole, asked.from) }
    });
    let mut setup = Setup::new(&[HUB, SECOND_HUB]).hub(&server);
    setup.ensure_good();
    assert!(fs::read(setup.at("m.gguf.bad-1")).unwrap() == [1; 600_000]);
    assert!(setup.heard.has("Hugging Face a/one: expected sha256") && setup.heard.has("m.gguf.bad-1"));
}

#[test]
fn only_the_newest_two_wrong_files_are_kept() {
    let server = Server::of(content());
    let mut setup = Setup::new(&[HUB]).hub(&server);
    for n in 1..=4u8 {
        setup.put("m.gguf", &[n; 600_000]);
        setup.ensure_good();
    }
    let kept = |n: usize| fs::read(setup.at(&format!("m.gguf.bad-{n}"))).unwrap()[0];
    assert_eq!((kept(1), kept(2)), (3, 4));
    assert!(!setup.at("m.gguf.bad-3").exists());
}

#[test]
fn a_cut_file_in_the_cache_is_replaced() {
    let server = Server::of(content());
    let mut setup = Setup::new(&[HUB]).hub(&server);
    setup.put("m.gguf", &content()[..1000]);
    setup.ensure_good();
    assert!(setup.heard.has("expected 600000 bytes, found 1000"));
    assert_eq!(fs::read(setup.at("m.gguf.bad-1")).unwrap().len(), 1000);
}

#[test]
fn a_file_put_there_by_hand_is_checked_and_taken() {
    let mut setup = Setup::new(&[HUB]);
    setup.put("m.gguf", &content());
    setup.ensure_good();
    assert!(setup.heard.has("checking") && setup.heard.has("its sha256 is right"));
}

#[test]
fn a_stamp_holds_until_size_or_time_change() {
    let server = Server::of(content());
    let mut setup = Setup::new(&[HUB]).hub(&server);
    setup.ensure_good();
    let touch = |setup: &Setup, time: SystemTime| {
        File::options().write(true).open(setup.at("m.gguf")).unwrap().set_modified(time).unwrap();
    };
    touch(&setup, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    setup.heard = Heard::default();
    setup.ensure_good();
    assert!(setup.heard.has("checking"), "another time of change means to look again");
    setup.heard = Heard::default();
    setup.ensure_good();
    assert!(!setup.heard.has("checking"), "and the look is remembered");

    fs::write(setup.at("m.gguf.stamp"), "bytes = \"x\"").unwrap();
    setup.ensure_good();
    assert!(setup.heard.has("checking"), "a stamp that cannot be read counts for nothing");
    assert_eq!(server.ranges().len(), 1);

    setup.put("m.gguf", &[9; 600_000]);
    touch(&setup, SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000));
    setup.ensure_good();
    assert_eq!(server.ranges().len(), 2, "other bytes of the same size are found out");
}

#[test]
fn a_changed_card_does_not_trust_an_old_stamp() {
    let server = Server::of(content());
    let mut setup = Setup::new(&[HUB]).hub(&server);
    setup.ensure_good();
    setup.card.files[0].sha256 = Some(Sha256Sum([0; 32]));
    let failures = setup.failures();
    assert!(failures[0].reason.contains("expected sha256 0000"), "{failures:?}");
}

#[test]
fn every_failed_source_is_named_with_its_reason_and_a_hint() {
    let server = Server::new(|asked, to| {
        let status = if asked.path.starts_with("/a/") { "404 Not Found" } else { "403 Forbidden" };
        head(to, status, "Content-Length: 0")
    });
    let mut setup = Setup::new(&[HUB, SECOND_HUB]).hub(&server);
    let text = setup.ensure().unwrap_err().to_string();
    assert!(
        text.starts_with("no source has m.gguf of tiny:\n  Hugging Face a/one: HTTP status 404"),
        "{text}"
    );
    assert!(text.contains("\n  Hugging Face b/two: HTTP status 403") && text.contains("\nhint: "), "{text}");
}

#[test]
fn no_network_fails_at_once() {
    let mut setup = Setup::new(&[HUB]);
    let failures = setup.failures();
    assert!(failures[0].reason.starts_with("no answer: "), "{failures:?}");
    setup.config.hub_endpoint = "not a url".to_owned();
    assert_eq!(setup.failures().len(), 1);
}

#[test]
fn a_source_of_another_length_is_refused_unread() {
    let server = Server::of(vec![0; 5]);
    let mut setup = Setup::new(&[HUB]).hub(&server);
    assert_eq!(setup.failures()[0].reason, "expected 600000 bytes, the server has 5");
}

#[test]
fn a_body_that_never_comes_or_is_too_long_ends_the_source() {
    let server = Server::new(|asked, to| {
        if asked.path.starts_with("/a/") {
            return head(to, "200 OK", "Content-Length: 600000");
        }
        head(to, "200 OK", "Transfer-Encoding: chunked")?;
        let chunk = [0; 70_001];
        loop {
            write!(to, "{:x}\r\n", chunk.len())?;
            to.write_all(&chunk)?;
            to.write_all(b"\r\n")?;
        }
    });
    let mut setup = Setup::new(&[HUB, SECOND_HUB]).hub(&server);
    let failures = setup.failures();
    assert!(failures[0].reason.contains("after 0 of 600000 bytes"), "{failures:?}");
    // Where a read happens to end at the expected length, the sum tells.
    let reason = &failures[1].reason;
    assert!(
        reason == "the server sends more than 600000 bytes" || reason.contains("expected sha256"),
        "{reason}"
    );
}

#[test]
fn a_file_of_unknown_length_is_refused() {
    let server = Server::new(|_, to| head(to, "200 OK", "Transfer-Encoding: chunked"));
    let mut setup = Setup::with(&[HUB], "").hub(&server);
    assert!(setup.failures()[0].reason.starts_with("neither the card nor the server"));
}

#[test]
fn a_silent_server_is_given_up() {
    let (hold, held) = mpsc::channel();
    let hold = Mutex::new(hold);
    let server = Server::new(move |asked, to| {
        if asked.path.starts_with("/b/") {
            head(to, "200 OK", "Content-Length: 600000")?;
            to.write_all(&[0; 10])?;
        }
        hold.lock().unwrap().send(to.try_clone()?).unwrap();
        Ok(())
    });
    let mut setup = Setup::new(&[HUB, SECOND_HUB]).hub(&server);
    setup.config.limits.response = Duration::from_millis(100);
    setup.config.limits.stall_window = Duration::from_millis(100);
    let failures = setup.failures();
    assert!(failures[0].reason.contains("timeout"), "{failures:?}");
    assert!(failures[1].reason.contains("timeout"), "{failures:?}");
    drop(held);
}

#[test]
fn a_dripping_server_is_given_up() {
    let server = Server::new(|_, to| {
        head(to, "200 OK", "Content-Length: 600000")?;
        loop {
            to.write_all(&[0; 10])?;
            thread::sleep(Duration::from_millis(5));
        }
    });
    let mut setup = Setup::new(&[HUB]).hub(&server);
    setup.config.limits.stall_window = Duration::from_millis(80);
    let failures = setup.failures();
    assert!(failures[0].reason.starts_with("too slow: "), "{failures:?}");
}

#[test]
fn a_full_disk_is_told_before_the_transfer() {
    let server = Server::of(content());
    let mut setup = Setup::new(&[HUB, SECOND_HUB]).hub(&server);
    setup.config.free_bytes = |_| Ok(Bytes(1000));
    let error = setup.ensure().unwrap_err();
    assert!(error.to_string().contains("600.0 kB needed, 1.0 kB free"), "{error}");
    assert_eq!(server.ranges().len(), 1, "no other source helps");
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_meanwhile_is_told() {
    let server = Server::of(content());
    let mut setup = Setup::new(&[HUB]).hub(&server);
    fs::create_dir_all(setup.at("")).unwrap();
    std::os::unix::fs::symlink("/dev/full", setup.at("m.gguf.partial")).unwrap();
    let error = setup.ensure().unwrap_err();
    assert!(matches!(error, FetchError::DiskFull { needed: Bytes(600_000), .. }), "{error}");
}

#[test]
fn the_free_space_of_this_disk_is_known() {
    assert!(free_bytes(Path::new("/")).is_ok());
    assert!(free_bytes(Path::new("/nonexistent")).is_err());
}

#[test]
fn a_card_without_a_sum_is_fetched_whole_and_says_so() {
    let server = Server::of(content());
    let mut setup = Setup::with(&[HUB], "").hub(&server);
    setup.put("m.gguf.partial", b"something");
    setup.ensure_good();
    assert_eq!(server.ranges(), [None], "without a sum nothing is resumed");
    assert!(setup.heard.has("could not be checked: the card tiny has no sha256"));
    setup.heard = Heard::default();
    setup.ensure_good();
    assert_eq!(setup.heard.messages, [""; 0]);
}

#[test]
fn a_model_of_several_files_is_its_directory() {
    let server = Server::of(content());
    let mut setup = Setup::new(&[HUB]).hub(&server);
    let files = ["config.json", "a.safetensors"]
        .map(|name| format!("[[files]]\nname = \"{name}\"\nsources = [{HUB}]\n"));
    setup.card = card(&files.concat());
    assert!(!Fetcher::new(setup.config.clone()).is_cached(&setup.card));
    assert_eq!(setup.ensure().unwrap(), setup.config.cache_dir.join("models/tiny"));
    assert!(setup.at("config.json").is_file() && setup.at("a.safetensors").is_file());
}

#[test]
fn two_starts_fetch_once() {
    // The one request is answered only when the other start has said that it waits.
    let (tell, waits) = mpsc::channel();
    let waits = Mutex::new(waits);
    let whole = content();
    let server = Server::new(move |asked, to| {
        let waits = waits.lock().unwrap();
        while !waits
            .recv_timeout(Duration::from_secs(20))
            .is_ok_and(|text: String| text.contains("another process"))
        {}
        send(to, &whole, asked.from)
    });
    let setup = Setup::new(&[HUB]).hub(&server);
    let fetcher = Fetcher::new(setup.config.clone());
    thread::scope(|scope| {
        for _ in 0..2 {
            let mut heard = Heard { on_message: Some(tell.clone()), ..Heard::default() };
            let (fetcher, card) = (&fetcher, &setup.card);
            scope.spawn(move || fetcher.ensure(card, &mut heard).unwrap());
        }
    });
    assert_eq!(server.ranges(), [None]);
    assert!(fs::read(setup.at("m.gguf")).unwrap() == setup.content);
}

#[test]
fn a_lock_that_is_never_released_is_told() {
    let mut setup = Setup::new(&[HUB]);
    setup.put(".lock", b"");
    let lock = File::open(setup.at(".lock")).unwrap();
    lock.lock().unwrap();
    setup.config.limits.lock = Duration::ZERO;
    assert!(matches!(setup.ensure(), Err(FetchError::Locked { .. })));
}

#[test]
fn a_cache_that_cannot_be_made_is_told() {
    let mut setup = Setup::new(&[HUB]);
    fs::write(setup.dir.path().join("file"), "").unwrap();
    setup.config.cache_dir = setup.dir.path().join("file");
    let error = setup.ensure().unwrap_err().to_string();
    assert!(error.starts_with("cannot create ") && error.contains("\nhint: "), "{error}");
}
