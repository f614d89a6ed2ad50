//! Which `Host` headers are answered. A web page can give its own DNS name this machine's address and then talk
//! to it as to its own server; it cannot forge the Host header, so unknown DNS names are refused.

use std::net::IpAddr;

use axum::http::{HeaderMap, header};

/// The host of a request if it is refused.
pub(crate) fn refused<'h>(headers: &'h HeaderMap, allowed: &[String]) -> Option<&'h str> {
    // Without a Host header it is no browser.
    let value = headers.get(header::HOST)?;
    let Ok(host) = value.to_str() else { return Some("(not ASCII)") };
    let name = without_port(host);
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_local = name.eq_ignore_ascii_case("localhost");
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let is_allowed = allowed.iter().any(|a| a.eq_ignore_ascii_case(name));
    (!is_local && !is_address && !is_allowed).then_some(host)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_allowed_names_pass() {
        let allowed = ["Studio.local".to_owned()];
        for host in [
            "127.0.0.1:8080",
            "10.0.0.7",
            "[::1]:80",
            "[fe80::1]",
            "localhost",
            "LOCALHOST:1",
            "studio.local:80",
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            assert_eq!(refused(&headers, &allowed), None, "{host}");
        }
        assert_eq!(refused(&HeaderMap::new(), &allowed), None);
    }

    #[test]
    fn other_names_do_not() {
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            ":80",
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            assert_eq!(refused(&headers, &[]), Some(host));
        }
    }
}
