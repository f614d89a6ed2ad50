//! Random matrices in every format, for the tests of this folder.

use base::DType;

/// A reproducible stream of random numbers.
#[allow(dead_code)] // each test file uses a part
pub(crate) struct Random(pub(crate) u64);

#[allow(dead_code)]
impl Random {
    pub(crate) fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    /// Between -1 and 1.
    pub(crate) fn float(&mut self) -> f32 {
        self.bits() as f32 / u32::MAX as f32 * 2.0 - 1.0
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Blocks of `n` values, whose half floats are around a tenth.
    pub(crate) fn blocks(&mut self, dtype: DType, n: usize) -> Vec<u8> {
        let halves: &[usize] = match dtype {
            DType::F32 => return self.floats(n).iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::BF16 => {
                return self
                    .floats(n)
                    .iter()
                    .flat_map(|v| [v.to_le_bytes()[2], v.to_le_bytes()[3]])
                    .collect();
            }
            DType::F16 | DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => &[0],
            DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
            DType::Q2_K => &[80, 82],
            DType::Q3_K => &[108],
            DType::Q6_K => &[208],
        };
        let mut bytes: Vec<u8> = (0..dtype.row_bytes(n).unwrap()).map(|_| self.bits() as u8).collect();
        for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
            for at in halves {
                // Sign and mantissa at random, exponent that of 1/16 or 1/8.
                let bits = 0x2c00 + (self.bits() & 0x87ff) as u16;
                block[*at..at + 2].copy_from_slice(&bits.to_le_bytes());
            }
        }
        bytes
    }
}
