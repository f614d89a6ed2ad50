//! How fast texts become tokens: `cargo run --release -p text --example tokenize -- MODEL_DIR [TEXT_FILE]`. The directory
//! holds `tiktoken.model` or `tokenizer.json`, and `tokenizer_config.json`; without a file the text is made up.

use std::path::Path;
use std::time::Instant;
use std::{env, fs};

use text::Tokenizer;

const N_RUNS: usize = 7;
const PROSE: &str = "The quick brown fox doesn't jump over 12345 lazy dogs; 敏捷的棕色狐狸跳过懒狗。\n\tlet x = f(&y[3..])?; // naïve façade\n\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let dir = args.next().ok_or("expected a directory")?;
    let dir = Path::new(&dir);
    let text = args.next().map_or(Ok(PROSE.repeat(20_000)), fs::read_to_string)?;
    let config = fs::read(dir.join("tokenizer_config.json")).ok();
    let started = Instant::now();
    let tokenizer = match fs::read(dir.join("tiktoken.model")) {
        Ok(ranks) => Tokenizer::from_tiktoken(&ranks, &config.ok_or("expected tokenizer_config.json")?)?,
        Err(_) => Tokenizer::from_json(&fs::read(dir.join("tokenizer.json"))?, config.as_deref())?,
    };
    println!("{} tokens read in {:.0} ms", tokenizer.n_tokens(), started.elapsed().as_secs_f64() * 1e3);
    let mut seconds: Vec<f64> = Vec::new();
    let mut tokens = Vec::new();
    for _ in 0..N_RUNS {
        let started = Instant::now();
        tokens = tokenizer.encode(&text, false, false)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    report("encoding", text.len(), &mut seconds);
    let mut seconds: Vec<f64> = Vec::new();
    for _ in 0..N_RUNS {
        let started = Instant::now();
        assert_eq!(tokenizer.decode(&tokens).len(), text.len());
        seconds.push(started.elapsed().as_secs_f64());
    }
    report("decoding", text.len(), &mut seconds);
    Ok(())
}

fn report(what: &str, n_bytes: usize, seconds: &mut [f64]) {
    seconds.sort_by(f64::total_cmp);
    let rate = |s: f64| n_bytes as f64 / s / 1e6;
    let (slowest, median, fastest) = (seconds[N_RUNS - 1], seconds[N_RUNS / 2], seconds[0]);
    println!("{what} {:.1} MB/s ({:.1} to {:.1}, {N_RUNS} runs)", rate(median), rate(slowest), rate(fastest));
}
