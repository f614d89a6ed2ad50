//! Every block format against values that the formats' reference implementation (PyPI gguf 0.19) gives for fixed
//! random bytes. Sums of a product and a minimum may differ in the last place.
#![allow(clippy::unwrap_used)]

use base::DType;
use kernels::dequantize;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn values_are_those_of_the_reference() {
    let goldens: Vec<&str> =
        include_str!("goldens/blocks.txt").lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(goldens.len(), DType::ALL.len());
    for line in goldens {
        let [name, bytes, values] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let dtype = DType::ALL.into_iter().find(|dtype| dtype.name() == name).unwrap();
        let expected: Vec<f32> =
            unhex(values).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let mut out = vec![0.0; expected.len()];
        dequantize(dtype, &unhex(bytes), &mut out);
        for (i, (out, expected)) in out.iter().zip(&expected).enumerate() {
            assert!((out - expected).abs() <= 1e-7 * expected.abs(), "{name} {i}: {out} {expected}");
        }
    }
}

#[test]
#[should_panic(expected = "bytes of 64 values of Q4_0")]
fn a_wrong_length_is_refused() {
    dequantize(DType::Q4_0, &[0; 35], &mut [0.0; 64]);
}
