//! Counts and durations of this server, printed in the Prometheus text format. A handful of atomics owned by the
//! router instead of the `metrics` crates, whose recorder is a global. It does not know what the numbers of the
//! scheduler mean: those arrive as named gauges.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::state::Gauge;

/// Upper bounds of the buckets of the time to the first token, in seconds.
const TTFT_BUCKETS_S: [f64; 13] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// Upper bounds of the buckets of the time per output token, in seconds.
const TPOT_BUCKETS_S: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// By a stop token or a stop string.
    Stop,
    /// By its length.
    Length,
    /// By an error after it was accepted.
    Failed,
    /// By the client, who went away.
    Cancelled,
}

impl Outcome {
    const ALL: [Outcome; 4] = [Outcome::Stop, Outcome::Length, Outcome::Failed, Outcome::Cancelled];

    fn label(self) -> &'static str {
        match self {
            Outcome::Stop => "stop",
            Outcome::Length => "length",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
        }
    }
}

/// Everything that is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Responses by endpoint and status; both come from small fixed sets.
    responses: Mutex<BTreeMap<(&'static str, u16), u64>>,
    answers: [AtomicU64; Outcome::ALL.len()],
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    ttft: Histogram,
    tpot: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        Metrics {
            responses: Mutex::default(),
            answers: Default::default(),
            prompt_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            ttft: Histogram::new(&TTFT_BUCKETS_S),
            tpot: Histogram::new(&TPOT_BUCKETS_S),
        }
    }

    pub(crate) fn count_response(&self, endpoint: &'static str, status: u16) {
        let mut responses = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        *responses.entry((endpoint, status)).or_default() += 1;
    }

    /// The page that Prometheus reads. `open`: requests that are open, and that may be.
    pub(crate) fn print(&self, open: (u32, u32), gauges: &[Gauge]) -> String {
        let mut page = Page::default();
        page.head("onefold_http_requests_total", "counter", "Responses by endpoint and status.");
        for ((endpoint, status), n) in &*self.responses.lock().unwrap_or_else(PoisonError::into_inner) {
            page.line(format_args!(
                "onefold_http_requests_total{{endpoint=\"{endpoint}\",status=\"{status}\"}} {n}"
            ));
        }
        page.head("onefold_answers_total", "counter", "Answers by the way they ended.");
        for (outcome, n) in Outcome::ALL.iter().zip(&self.answers) {
            let (label, n) = (outcome.label(), n.load(Relaxed));
            page.line(format_args!("onefold_answers_total{{outcome=\"{label}\"}} {n}"));
        }
        page.value("onefold_open_requests", "gauge", "Requests being answered or waiting.", open.0.into());
        page.value("onefold_queue_limit", "gauge", "Requests that may be open.", open.1.into());
        let n = self.prompt_tokens.load(Relaxed);
        page.value("onefold_prompt_tokens_total", "counter", "Tokens of accepted prompts.", n as f64);
        let n = self.generated_tokens.load(Relaxed);
        page.value("onefold_generated_tokens_total", "counter", "Tokens of answers.", n as f64);
        page.histogram("onefold_ttft_seconds", "Time to the first token.", &self.ttft);
        page.histogram("onefold_tpot_seconds", "Time per output token after the first.", &self.tpot);
        for gauge in gauges {
            page.value(&gauge.name, "gauge", &gauge.help, gauge.value);
        }
        page.text
    }
}

/// Follows one request from its arrival to its last token; a request that goes away early counts as cancelled.
#[derive(Debug)]
pub(crate) struct Meter {
    metrics: Arc<Metrics>,
    arrived: Instant,
    /// When the first and the latest token came, and how many there are.
    tokens: Option<(Instant, Instant, u32)>,
    accepted: bool,
    outcome: Outcome,
}

impl Meter {
    pub(crate) fn start(metrics: &Arc<Metrics>) -> Meter {
        let (metrics, arrived) = (metrics.clone(), Instant::now());
        Meter { metrics, arrived, tokens: None, accepted: false, outcome: Outcome::Cancelled }
    }

    /// The engine has taken the request.
    pub(crate) fn accepted(&mut self, n_prompt_tokens: usize) {
        self.accepted = true;
        self.metrics.prompt_tokens.fetch_add(n_prompt_tokens as u64, Relaxed);
    }

    /// One more token has come.
    pub(crate) fn token(&mut self) {
        let now = Instant::now();
        self.metrics.generated_tokens.fetch_add(1, Relaxed);
        self.tokens = Some(match self.tokens {
            Some((first, _, n)) => (first, now, n + 1),
            None => {
                self.metrics.ttft.record(now - self.arrived);
                (now, now, 1)
            }
        });
    }

    /// The answer has ended.
    pub(crate) fn ended(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.accepted {
            self.metrics.answers[self.outcome as usize].fetch_add(1, Relaxed);
        }
        if let Some((first, last, n)) = self.tokens
            && n > 1
        {
            self.metrics.tpot.record((last - first) / (n - 1));
        }
    }
}

#[derive(Debug)]
struct Histogram {
    bounds_s: &'static [f64],
    /// One count for each bound, and one for what lies above.
    counts: Vec<AtomicU64>,
    sum_us: AtomicU64,
}

impl Histogram {
    fn new(bounds_s: &'static [f64]) -> Histogram {
        let counts = (0..=bounds_s.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds_s, counts, sum_us: AtomicU64::new(0) }
    }

    fn record(&self, duration: Duration) {
        let bucket = self.bounds_s.partition_point(|bound| *bound < duration.as_secs_f64());
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(duration.as_micros() as u64, Relaxed);
    }
}

/// The text format: a help line, a type line, values.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn value(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        self.line(format_args!("{name} {value}"));
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let mut n = 0;
        for (i, count) in histogram.counts.iter().enumerate() {
            n += count.load(Relaxed);
            match histogram.bounds_s.get(i) {
                Some(bound) => self.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {n}")),
                None => self.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {n}")),
            }
        }
        let sum = Duration::from_micros(histogram.sum_us.load(Relaxed)).as_secs_f64();
        self.line(format_args!("{name}_sum {sum}"));
        self.line(format_args!("{name}_count {n}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_what_was_counted() {
        let metrics = Arc::new(Metrics::new());
        metrics.count_response("/v1/models", 200);
        metrics.count_response("/v1/models", 200);
        let mut meter = Meter::start(&metrics);
        meter.accepted(7);
        for _ in 0..3 {
            meter.token();
        }
        let gauge = Gauge { name: "onefold_running".into(), help: "Sequences.".into(), value: 2.0 };
        let page = metrics.print((1, 5), &[gauge]);
        for line in [
            "onefold_http_requests_total{endpoint=\"/v1/models\",status=\"200\"} 2",
            "onefold_open_requests 1",
            "onefold_queue_limit 5",
            "onefold_prompt_tokens_total 7",
            "onefold_generated_tokens_total 3",
            "onefold_ttft_seconds_count 1",
            "# TYPE onefold_running gauge",
            "onefold_running 2",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
        drop(meter);
        let page = metrics.print((1, 5), &[]);
        assert!(page.contains("onefold_answers_total{outcome=\"cancelled\"} 1"));
        assert!(page.contains("onefold_tpot_seconds_count 1"));
    }

    #[test]
    fn a_histogram_is_cumulative_and_a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        for ms in [50, 100, 500, 5000] {
            histogram.record(Duration::from_millis(ms));
        }
        let mut page = Page::default();
        page.histogram("h", "Help.", &histogram);
        let expected = "# HELP h Help.\n# TYPE h histogram\nh_bucket{le=\"0.1\"} 2\nh_bucket{le=\"1\"} 3\n\
                        h_bucket{le=\"+Inf\"} 4\nh_sum 5.65\nh_count 4\n";
        assert_eq!(page.text, expected);
    }
}
