//! Rotation of heads as one elementwise operation, `x · cos + swapped(x) · sin`, over all heads of a fused product at once:
//! those that do not turn, the values, pass through a mask.

use std::{cell::RefCell, rc::Rc};

use mlx_sys::{Array, Mlx, Rotation};

use crate::{BackendError, RopeSpec, RopeStyle};

/// [`crate::Backend::Rope`] of MLX.
pub struct MlxRope {
    style: RopeStyle,
    rot_dim: usize,
    n_rows: usize,
    /// `[n_rows, rot_dim]`, in the order of a head's values.
    cos: Vec<f32>,
    /// The same, with the sign of the value's place in its pair.
    sin: Vec<f32>,
    /// As arrays `[n_rows, 1, pairs..]`, for each number of values that some operation turns.
    tables: RefCell<Vec<(usize, Rc<[Array; 2]>)>>,
}

/// Weights of a norm over each head, before the rotation.
pub(super) struct HeadWeights {
    weights: Array, // [n_heads, head_dim]
    /// In pairs, and with the two of each pair the other way round; made at the first use, which knows the pairs.
    in_pairs: RefCell<Option<(RopeStyle, Rc<[Array; 2]>)>>,
}

impl MlxRope {
    pub(super) fn new(spec: &RopeSpec, positions: &[u32]) -> MlxRope {
        let half = spec.inv_freq.len();
        let n = positions.len() * half;
        let (mut cosines, mut sines) = (vec![0.0; n], vec![0.0; n]);
        let rows = positions.iter().copied();
        kernels::rope_table(rows, &spec.inv_freq, spec.factor, &mut cosines, &mut sines);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for (c, s) in cosines.chunks(half.max(1)).zip(sines.chunks(half.max(1))) {
            match spec.style {
                RopeStyle::Half => {
                    cos.extend(c.iter().chain(c));
                    sin.extend(s.iter().map(|s| -s).chain(s.iter().copied()));
                }
                RopeStyle::Interleaved => {
                    cos.extend(c.iter().flat_map(|&c| [c, c]));
                    sin.extend(s.iter().flat_map(|&s| [-s, s]));
                }
            }
        }
        let (n_rows, tables) = (positions.len(), RefCell::default());
        MlxRope { style: spec.style, rot_dim: 2 * half, n_rows, cos, sin, tables }
    }

    /// Turns the heads of `x [n_rows, n_heads * head_dim]` for which `mask [1, n_heads, 1, 1]` holds, first normalised if
    /// there are norms; the others pass. The result has as many values in the same order, in some shape.
    pub(super) fn turn(
        &self,
        mlx: Mlx,
        x: &Array,
        [n_heads, head_dim]: [usize; 2],
        norms: Option<(&HeadWeights, f32)>,
        mask: &Array,
    ) -> Result<Array, BackendError> {
        if self.rot_dim > head_dim || self.n_rows != x.dim(0) {
            return Err(BackendError::Shape {
                op: "rope",
                expected: format!("[{}, .., at least {}]", self.n_rows, self.rot_dim),
                found: format!("{:?}", x.shape()),
            });
        }
        if self.style == RopeStyle::Half && self.rot_dim < head_dim {
            let heads = mlx.reshape(x, &[self.n_rows, n_heads, head_dim])?;
            return self.turn_first(mlx, &heads, norms, mask);
        }
        let table = self.table(mlx, head_dim)?;
        let by = Rotation { mask, cos: &table[0], sin: &table[1] };
        let plain = self.in_pairs(mlx, x, n_heads)?;
        let Some((weights, eps)) = norms else {
            return Ok(mlx.rotate(&plain, &self.swapped(mlx, &plain)?, &by)?);
        };
        let heads = mlx.reshape(x, &[self.n_rows, n_heads, head_dim])?;
        let normed = self.in_pairs(mlx, &mlx.rms_norm(&heads, None, eps)?, n_heads)?;
        let swapped = self.swapped(mlx, &normed)?;
        let weights = weights.in_pairs(mlx, self)?;
        Ok(mlx.rotate_weighted([&normed, &swapped], &by, [&weights[0], &weights[1]], &plain)?)
    }

    /// Pairs lie within the first `rot_dim` values of a head: these turn, the rest is put behind them again.
    fn turn_first(
        &self,
        mlx: Mlx,
        x: &Array,
        norms: Option<(&HeadWeights, f32)>,
        mask: &Array,
    ) -> Result<Array, BackendError> {
        let [n_rows, n_heads, head_dim] = [x.dim(0), x.dim(1), x.dim(2)];
        let x = match norms {
            None => x.clone(),
            Some((weights, eps)) => {
                let normed = mlx.multiply(&mlx.rms_norm(x, None, eps)?, &weights.weights)?;
                mlx.choose(&mlx.reshape(mask, &[1, n_heads, 1])?, &normed, x)?
            }
        };
        let turning = mlx.slice(&x, 2, 0..self.rot_dim)?;
        let turned = self.turn(mlx, &turning, [n_heads, self.rot_dim], None, mask)?;
        let turned = mlx.reshape(&turned, &[n_rows, n_heads, self.rot_dim])?;
        Ok(mlx.concatenate(&[&turned, &mlx.slice(&x, 2, self.rot_dim..head_dim)?], 2)?)
    }

    /// `[n_rows, n_heads, pairs..]`, whatever the shape before.
    fn in_pairs(&self, mlx: Mlx, x: &Array, n_heads: usize) -> Result<Array, BackendError> {
        let half = x.len() / (2 * x.dim(0) * n_heads).max(1);
        let pairs = if self.style == RopeStyle::Half { [2, half] } else { [half, 2] };
        Ok(mlx.reshape(x, &[x.dim(0), n_heads, pairs[0], pairs[1]])?)
    }

    fn swapped(&self, mlx: Mlx, x: &Array) -> Result<Array, BackendError> {
        Ok(mlx.swapped(x, if self.style == RopeStyle::Half { 2 } else { 3 })?)
    }

    /// Cosines and sines of heads of `head_dim` values; those behind `rot_dim` do not turn.
    fn table(&self, mlx: Mlx, head_dim: usize) -> Result<Rc<[Array; 2]>, BackendError> {
        if let Some((_, table)) = self.tables.borrow().iter().find(|(dim, _)| *dim == head_dim) {
            return Ok(table.clone());
        }
        let whole = |values: &[f32], rest: f32| -> Result<Array, BackendError> {
            let mut padded = Vec::with_capacity(self.n_rows * head_dim);
            for row in values.chunks(self.rot_dim.max(1)) {
                padded.extend_from_slice(row);
                padded.resize(padded.len() + head_dim - self.rot_dim, rest);
            }
            self.in_pairs(mlx, &mlx.floats(&padded, &[self.n_rows, head_dim])?, 1)
        };
        let table = Rc::new([whole(&self.cos, 1.0)?, whole(&self.sin, 0.0)?]);
        mlx.eval(&[&table[0], &table[1]])?;
        self.tables.borrow_mut().push((head_dim, table.clone()));
        Ok(table)
    }
}

impl HeadWeights {
    /// `weights [n_heads, head_dim]`.
    pub(super) fn new(weights: Array) -> HeadWeights {
        HeadWeights { weights, in_pairs: RefCell::default() }
    }

    fn in_pairs(&self, mlx: Mlx, rope: &MlxRope) -> Result<Rc<[Array; 2]>, BackendError> {
        if let Some((style, pairs)) = &*self.in_pairs.borrow()
            && *style == rope.style
        {
            return Ok(pairs.clone());
        }
        let [n_heads, head_dim] = [self.weights.dim(0), self.weights.dim(1)];
        let row = mlx.reshape(&self.weights, &[1, n_heads * head_dim])?;
        let pairs = rope.in_pairs(mlx, &row, n_heads)?;
        let swapped = rope.swapped(mlx, &pairs)?;
        mlx.eval(&[&pairs, &swapped])?;
        let both = Rc::new([pairs, swapped]);
        *self.in_pairs.borrow_mut() = Some((rope.style, both.clone()));
        Ok(both)
    }
}
