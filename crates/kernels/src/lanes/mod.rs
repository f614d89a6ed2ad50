//! Sixteen lanes of arithmetic, once per family of vector instructions: what the matrix and attention kernels are
//! written in. A lane is one output value, so nothing is ever added across lanes, and every family gives the same
//! bits. Knows no formats and no loops.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use crate::Isa;

/// Lanes of every vector: rows of a weight tile, keys of a cache block, values of a head.
pub(crate) const N_LANES: usize = 16;

/// A family's sixteen-lane vectors. All functions are unsafe: they need the family's instructions (see `call`) and
/// valid pointers, for which no alignment is needed.
pub(crate) trait Lanes: Copy {
    /// Rows of x that the quantised matmul kernel takes together, as the number of registers allows.
    const QUANT_ROWS: usize;
    /// Tiles that it takes together.
    const QUANT_TILES: usize;
    /// Rows up to which that kernel takes the sums of 32 inputs in two halves: a dot product waits for the one before
    /// it in its sum, which few rows cannot hide. 0 where it does not wait.
    const TWO_SUM_ROWS: usize;
    /// Rows of x that the float matmul kernel takes together.
    const FLOAT_ROWS: usize;
    /// Tiles that it takes together.
    const FLOAT_TILES: usize;
    /// Tiles that it takes together for one row in pairs of bf16.
    const PAIR_TILES: usize;
    /// Vectors of the attention kernel's sums that fit the registers beside what is multiplied.
    const SUMS: usize;
    /// 16 f32.
    type F: Copy;
    /// 16 i32.
    type I: Copy;
    /// 16 × 4 unsigned bytes.
    type C: Copy;

    /// Runs a kernel compiled with the family's instructions.
    unsafe fn call<K: Kernel>(kernel: K);

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn load_f16(p: *const u16) -> Self::F;
    unsafe fn load_i8(p: *const i8) -> Self::F;
    unsafe fn store(p: *mut f32, a: Self::F);
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// Of numbers: what comes of others differs from family to family.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The largest lane, of numbers.
    unsafe fn largest(a: Self::F) -> f32;
    /// a * b + c, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// acc + a1 * x1, rounded, + a0 * x0, rounded: with the pairs of bf16 in each lane of `a` and in `x`, the first in
    /// the low half. What is below the normal numbers may be taken as zero.
    unsafe fn dot_pairs(acc: Self::F, a: Self::C, x: u32) -> Self::F;

    /// x << SHIFT in every lane.
    unsafe fn splat_shifted<const SHIFT: u32>(x: i32) -> Self::I;
    unsafe fn to_f32(a: Self::I) -> Self::F;
    /// a + b
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I;

    /// Asks for the cache line of an address, which need not be valid.
    unsafe fn prefetch(p: *const u8);
    /// 64 bytes.
    unsafe fn codes(p: *const u8) -> Self::C;
    /// The low four bits of every byte.
    unsafe fn low(c: Self::C) -> Self::C;
    /// The high four bits of every byte.
    unsafe fn high(c: Self::C) -> Self::C;
    /// low with bits from a plane: those of `mask`, once every byte of the plane has been shifted to the left by
    /// `left` or, if that is negative, to the right. Bits of `mask` must come from their own byte.
    unsafe fn merge(low: Self::C, plane: Self::C, left: i32, mask: u8) -> Self::C;
    /// acc + the dot product of each lane's four codes with the four signed bytes at `x`, exactly. Codes are below
    /// 128 unless `WIDE`; the bytes of x are never -128.
    unsafe fn dot<const WIDE: bool>(acc: Self::I, c: Self::C, x: *const i8) -> Self::I;
}

/// A computation written in `Lanes`.
pub(crate) trait Kernel {
    /// Whether it calls `dot_pairs`, for which only some machines of a family have an instruction.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const PAIRS: bool = false;

    /// `#[inline(always)]` in every implementation, so that it is compiled inside `Lanes::call`.
    unsafe fn run<L: Lanes>(self);
}

impl Isa {
    /// Runs a kernel with this family's lanes.
    ///
    /// # Safety
    /// What the kernel itself requires.
    pub(crate) unsafe fn call<K: Kernel>(self, kernel: K) {
        self.check();
        // SAFETY: `check` found the instructions on this machine; the rest is the caller's promise.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => avx512::call(kernel),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::Avx2::call(kernel),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => neon::Neon::call(kernel),
                _ => scalar::Scalar::call(kernel),
            }
        }
    }
}
