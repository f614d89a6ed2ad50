//! What a message over TLS allocates once the link stands: what rustls allocates for each record of up to 16 KiB and each
//! call, and nothing of ours.

#![allow(clippy::unwrap_used)] // a check fails by panicking

mod certificates;

use allocation_counter::measure;
use certificates::{PATIENCE, pair};
use transport::{recv, send};

const N_MESSAGES: u64 = 100;
/// By these steps rustls's buffer for a record that comes in grows, and shrinks again afterwards.
const STEP_BYTES: usize = 4 << 10;
/// Plain bytes of a record.
const RECORD_BYTES: usize = 16 << 10;
/// Bytes in front of a message.
const HEADER_BYTES: usize = 12;

#[test]
fn a_message_allocates_what_its_records_do() {
    let (mut a, mut b) = pair().unwrap();
    for n_bytes in [64, 8 << 10, 64 << 10] {
        let (message, mut back) = (vec![1; n_bytes], vec![0; n_bytes]);
        let mut there = || send(&mut a, &message, Some(PATIENCE)).unwrap();
        let mut here = || recv(&mut b, &mut back, Some(PATIENCE)).unwrap();
        there();
        here();
        let (mut sent, mut received) = (0, 0);
        for _ in 0..N_MESSAGES {
            sent += measure(&mut there).count_total;
            received += measure(&mut here).count_total;
        }
        let n_records = (HEADER_BYTES + n_bytes).div_ceil(RECORD_BYTES) as u64;
        println!(
            "{n_bytes} bytes, {n_records} records: allocations a message {} to send, {} to receive",
            sent as f64 / N_MESSAGES as f64,
            received as f64 / N_MESSAGES as f64
        );
        // a list of parts for each call and a buffer for each record; the same for what comes in, whose buffer also grows
        let n_steps = (HEADER_BYTES + n_bytes).div_ceil(STEP_BYTES) as u64;
        assert!(sent <= N_MESSAGES * (n_records + 1), "{n_bytes} bytes: {sent} to send");
        assert!(received <= N_MESSAGES * (2 * n_records + n_steps), "{n_bytes} bytes: {received} to receive");
    }
}
