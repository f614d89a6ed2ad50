//! Linear layers: packed weights that share their input, and the look-up of words.

use base::WeightView;
use kernels::{PackedMatrix, Pool};

use super::{CpuBackend, CpuInputs, CpuTensor};
use crate::{BackendError, Part, affine, checks::check, scaled};

/// Packed weights, each with its bias.
pub struct CpuLinear {
    parts: Vec<PackedPart>,
    n_in: usize,
}

struct PackedPart {
    weight: PackedMatrix,
    bias: Option<Vec<f32>>,
}

impl CpuLinear {
    pub(super) fn new(pool: &Pool, parts: &[Part<'_>]) -> Result<CpuLinear, BackendError> {
        let n_in = parts.first().map_or(0, |part| part.weight.n_cols());
        let packed = |part: &Part<'_>| {
            check("linear: inputs of a part", n_in, part.weight.n_cols())?;
            if let Some(bias) = part.bias {
                check("linear: values of a bias", part.weight.n_rows(), bias.len())?;
            }
            Ok(PackedPart { weight: pack(pool, &part.weight)?, bias: part.bias.map(<[f32]>::to_vec) })
        };
        Ok(CpuLinear { parts: parts.iter().map(packed).collect::<Result<_, BackendError>>()?, n_in })
    }

    /// `[n_rows, n_in] → [n_rows, n_out_i]` for every part.
    pub(super) fn apply<const N: usize>(
        &self,
        b: &CpuBackend,
        x: &CpuTensor,
    ) -> Result<[CpuTensor; N], BackendError> {
        check("matmul: parts of the weights", self.parts.len(), N)?;
        check("matmul: columns of the input", self.n_in, x.n_cols())?;
        let mut outs = std::array::from_fn(|i| b.buffers.tensor(x.n_rows(), self.parts[i].weight.n_rows()));
        let mut slices = outs.each_mut().map(CpuTensor::values_mut);
        let weights: [&PackedMatrix; N] = std::array::from_fn(|i| &self.parts[i].weight);
        kernels::matmul(&b.pool, b.isa, x.values(), &weights, &mut slices);
        let isa = b.isa;
        for (out, part) in slices.iter_mut().zip(&self.parts) {
            if let Some(bias) = &part.bias {
                b.pool.rows(out, bias.len(), |_, out| kernels::add_bias(isa, out, bias));
            }
        }
        Ok(outs)
    }

    /// Rows of the words that the table holds, zeros for the others: `[n_rows, n_in]`.
    pub(super) fn look_up(
        &self,
        b: &CpuBackend,
        first_word: u32,
        inputs: &CpuInputs,
    ) -> Result<CpuTensor, BackendError> {
        check("embed: parts of the table", 1, self.parts.len())?;
        let (table, tokens) = (&self.parts[0].weight, &inputs.batch.tokens);
        let mut out = b.buffers.tensor(tokens.len(), self.n_in);
        b.pool.rows(out.values_mut(), self.n_in, |rows, out| {
            for (token, row) in tokens[rows].iter().zip(out.chunks_exact_mut(self.n_in.max(1))) {
                match token.0.checked_sub(first_word).filter(|&word| (word as usize) < table.n_rows()) {
                    Some(word) => table.dequantize_row(word as usize, row),
                    None => row.fill(0.0),
                }
            }
        });
        Ok(out)
    }
}

/// A stored weight in the kernels' layout.
pub(super) fn pack(pool: &Pool, weight: &WeightView<'_>) -> Result<PackedMatrix, BackendError> {
    match weight {
        WeightView::Blocks(view) => Ok(PackedMatrix::pack(pool, view)?),
        WeightView::Affine(view) => {
            affine::check(view)?;
            Ok(PackedMatrix::pack_affine(pool, view)?)
        }
        WeightView::Fp8(view) => {
            scaled::check_fp8(view)?;
            Ok(PackedMatrix::pack_fp8(pool, view)?)
        }
        WeightView::Mxfp4(view) => {
            scaled::check_mxfp4(view)?;
            Ok(PackedMatrix::pack_mxfp4(pool, view)?)
        }
    }
}
