//! Fills a partial file over HTTP: goes on where an earlier transfer ended, survives cuts, refuses a wrong length
//! and a source that is too slow. Whether the bytes are the right ones is not decided here.

use std::{io::Read, net::IpAddr, thread, time::Instant};

use base::Bytes;
use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, StatusCode, Uri, header},
};

use super::{
    super::{Progress, RelativePath, RepoId, Word, cache::Partial},
    FetchConfig, Limits, Stop, Wanted, check_room,
};

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Most requests for one file from one source; each but the last must have brought some bytes.
const MAX_REQUESTS: usize = 20;

/// Why one request did not bring the rest of the file.
enum Cut {
    /// The transfer broke; what came is kept.
    Broken(String),
    /// The server has no such range: what is there is not the beginning of its file.
    NoSuchRange,
    /// Another request will not help.
    Stop(Stop),
}

impl<E: Into<Stop>> From<E> for Cut {
    fn from(error: E) -> Cut {
        Cut::Stop(error.into())
    }
}

/// Address of a file in a repository of the hub.
pub(super) fn hub_url(endpoint: &str, repo: &RepoId, revision: &Word, path: &RelativePath) -> String {
    let path: Vec<String> = path.as_str().split('/').map(percent_encoded).collect();
    format!("{}/{repo}/resolve/{revision}/{}", endpoint.trim_end_matches('/'), path.join("/"))
}

/// Fills the wanted file's partial with all that `url` has.
pub(super) fn fill(
    config: &FetchConfig,
    url: &str,
    wanted: &Wanted<'_>,
    progress: &mut dyn Progress,
) -> Result<Partial, Stop> {
    let mut partial = Partial::open(&wanted.slot.partial(), progress)?;
    // Only a sum can tell whether the rest belongs to what is there.
    let may_resume = wanted.file.sha256.is_some();
    if !may_resume || wanted.file.bytes.is_some_and(|total| partial.len() > total) {
        partial.restart()?;
    }
    if partial.is_resumed() && Some(partial.len()) == wanted.file.bytes {
        return Ok(partial);
    }
    let agent = agent(&config.limits, url);
    let mut n_requests = 0;
    loop {
        n_requests += 1;
        let before = partial.len();
        match request(config, &agent, url, wanted, &mut partial, progress) {
            Ok(()) => return Ok(partial),
            Err(Cut::Stop(stop)) => return Err(stop),
            Err(Cut::NoSuchRange) => partial.restart()?, // without a range this answer is not given again
            Err(Cut::Broken(why)) => {
                if partial.len() <= before || !may_resume || n_requests >= MAX_REQUESTS {
                    return Err(Stop::Source(why));
                }
                progress.message(&format!("{why}; going on at {}", partial.len()));
                thread::sleep(config.limits.retry_pause);
            }
        }
    }
}

/// One request for what is missing.
fn request(
    config: &FetchConfig,
    agent: &Agent,
    url: &str,
    wanted: &Wanted<'_>,
    partial: &mut Partial,
    progress: &mut dyn Progress,
) -> Result<(), Cut> {
    let mut request = agent.get(url);
    if partial.len() > Bytes(0) {
        request = request.header(header::RANGE, format!("bytes={}-", partial.len().0));
    }
    let response = request.call().map_err(|error| Cut::Broken(format!("no answer: {error}")))?;
    let total = total_bytes(&response, partial)?;
    let Some(total) = total.or(wanted.file.bytes) else {
        return Err(Stop::Source("neither the card nor the server says how long the file is".into()).into());
    };
    if let Some(expected) = wanted.file.bytes.filter(|expected| *expected != total) {
        let why = format!("expected {} bytes, the server has {}", expected.0, total.0);
        return Err(Stop::Source(why).into());
    }
    check_room(config, wanted, Bytes(total.0.saturating_sub(partial.len().0)))?;
    receive(&config.limits, response, total, partial, progress)
}

/// Length of the whole file by the head of the response; empties the partial if the server sends all of it again.
fn total_bytes(response: &Response<Body>, partial: &mut Partial) -> Result<Option<Bytes>, Cut> {
    match response.status() {
        StatusCode::OK => {
            if partial.len() > Bytes(0) {
                partial.restart()?;
            }
            Ok(response.body().content_length().map(Bytes))
        }
        StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
            Some((first, total)) if first == partial.len() => Ok(Some(total)),
            _ if partial.len() > Bytes(0) => Err(Cut::NoSuchRange),
            _ => Err(Stop::Source("the server sent a part of the file that was not asked for".into()).into()),
        },
        StatusCode::RANGE_NOT_SATISFIABLE if partial.len() > Bytes(0) => Err(Cut::NoSuchRange),
        status => Err(Stop::Source(format!("HTTP status {status}")).into()),
    }
}

/// First byte and total of `bytes <first>-<last>/<total>`.
fn content_range(headers: &HeaderMap) -> Option<(Bytes, Bytes)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((Bytes(first.trim().parse().ok()?), Bytes(total.trim().parse().ok()?)))
}

/// Appends the body until the partial has `total` bytes.
fn receive(
    limits: &Limits,
    response: Response<Body>,
    total: Bytes,
    partial: &mut Partial,
    progress: &mut dyn Progress,
) -> Result<(), Cut> {
    let mut body = response.into_body().into_reader();
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut window, mut window_start) = (Instant::now(), partial.len());
    progress.bytes(partial.len(), Some(total));
    while partial.len() < total {
        let have = partial.len().0;
        let n = match body.read(&mut chunk) {
            Ok(n) => n,
            Err(error) => {
                return Err(Cut::Broken(format!("broke after {have} of {} bytes: {error}", total.0)));
            }
        };
        if n == 0 {
            return Err(Cut::Broken(format!("ended after {have} of {} bytes", total.0)));
        }
        if have + n as u64 > total.0 {
            return Err(Stop::Source(format!("the server sends more than {} bytes", total.0)).into());
        }
        partial.append(&chunk[..n])?;
        progress.bytes(partial.len(), Some(total));
        if window.elapsed() >= limits.stall_window {
            let n_bytes = partial.len().0 - window_start.0;
            if n_bytes < limits.min_window_bytes.0 && partial.len() < total {
                let why = format!("too slow: {n_bytes} bytes in {:?}", window.elapsed());
                return Err(Stop::Source(why).into());
            }
            (window, window_start) = (Instant::now(), partial.len());
        }
    }
    Ok(())
}

fn agent(limits: &Limits, url: &str) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(limits.connect))
        .timeout_connect(Some(limits.connect))
        .timeout_recv_response(Some(limits.response))
        .timeout_per_read(Some(limits.stall_window));
    // A hub on this machine is not behind the proxy that the system may be set up for.
    let config = if is_loopback(url) { config.proxy(None) } else { config };
    config.build().new_agent()
}

fn is_loopback(url: &str) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return false };
    url.host().is_some_and(|host| {
        host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    })
}

fn percent_encoded(part: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    part.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_built_below_the_endpoint_and_encoded() {
        let text = |text: &str| text.to_owned();
        let repo = RepoId::try_from(text("who/what")).unwrap();
        let revision = Word::try_from(text("main")).unwrap();
        let path = RelativePath::try_from(text("a b/c?#é.gguf")).unwrap();
        let url = hub_url("http://mirror/hub/", &repo, &revision, &path);
        assert_eq!(url, "http://mirror/hub/who/what/resolve/main/a%20b/c%3F%23%C3%A9.gguf");
    }

    #[test]
    fn a_content_range_is_read_or_refused() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
            content_range(&headers)
        };
        assert_eq!(read("bytes 5-9/10"), Some((Bytes(5), Bytes(10))));
        for bad in ["bytes 5-9/*", "bytes */10", "5-9/10", "bytes -/", "bytes 99999999999999999999-1/2", ""] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn loopback_is_recognised() {
        assert!(is_loopback("http://127.0.0.1:80/x") && is_loopback("http://localhost/x"));
        assert!(!is_loopback("https://example.org/x") && !is_loopback("::"));
    }
}
