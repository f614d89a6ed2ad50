//! Sixteen lanes as one 512-bit register.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{Kernel, Lanes};

/// With the instruction for dot products of bf16 pairs, or without it.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const HAS_BF16: bool>;

/// Runs a kernel with the instructions that it has a use for and this machine has.
pub(super) unsafe fn call<K: Kernel>(kernel: K) {
    unsafe {
        if const { K::PAIRS } && is_x86_feature_detected!("avx512bf16") {
            with_bf16(kernel)
        } else {
            with_features(kernel)
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn with_features<K: Kernel>(kernel: K) {
    unsafe { kernel.run::<Avx512<false>>() }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
unsafe fn with_bf16<K: Kernel>(kernel: K) {
    unsafe { kernel.run::<Avx512<true>>() }
}

impl<const HAS_BF16: bool> Lanes for Avx512<HAS_BF16> {
    const QUANT_ROWS: usize = 6;
    const QUANT_TILES: usize = 2;
    const TWO_SUM_ROWS: usize = 2;
    const FLOAT_ROWS: usize = if HAS_BF16 { 6 } else { 4 };
    const FLOAT_TILES: usize = 4;
    const PAIR_TILES: usize = if HAS_BF16 { 1 } else { 4 };
    const SUMS: usize = 24;
    type F = __m512;
    type I = __m512i;
    type C = __m512i;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) {
        unsafe { if HAS_BF16 { with_bf16(kernel) } else { with_features(kernel) } }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, a: __m512) {
        unsafe { _mm512_storeu_ps(p, a) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn largest(a: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: __m512, a: __m512i, x: u32) -> __m512 {
        unsafe {
            let x = _mm512_set1_epi32(x as i32);
            if HAS_BF16 {
                return _mm512_dpbf16_ps(
                    acc,
                    transmute::<__m512i, __m512bh>(a),
                    transmute::<__m512i, __m512bh>(x),
                );
            }
            let ((a0, a1), (x0, x1)) = (halves(a), halves(x));
            _mm512_fmadd_ps(a0, x0, _mm512_fmadd_ps(a1, x1, acc))
        }
    }
    #[inline(always)]
    unsafe fn splat_shifted<const SHIFT: u32>(x: i32) -> __m512i {
        unsafe { _mm512_slli_epi32::<SHIFT>(_mm512_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn to_f32(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn low(c: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(c, _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn high(c: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(c), _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn merge(low: __m512i, plane: __m512i, left: i32, mask: u8) -> __m512i {
        unsafe {
            // The shift is a constant once the caller's loop is unrolled.
            let count = _mm512_set1_epi16(left.unsigned_abs() as i16);
            let bits =
                if left >= 0 { _mm512_sllv_epi16(plane, count) } else { _mm512_srlv_epi16(plane, count) };
            _mm512_or_si512(low, _mm512_and_si512(bits, _mm512_set1_epi8(mask as i8)))
        }
    }
    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: __m512i, c: __m512i, x: *const i8) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(acc, c, _mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }
}

/// The first and the second of pairs of bf16.
#[inline(always)]
unsafe fn halves(pairs: __m512i) -> (__m512, __m512) {
    unsafe {
        let second = _mm512_and_si512(pairs, _mm512_set1_epi32(!0xffff));
        (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// out = the dot products of pairs one after the other, in every lane, as bits.
    struct Dots<'a> {
        a: &'a [[u32; 16]],
        x: &'a [u32],
        out: &'a mut [u32; 16],
    }

    impl Kernel for Dots<'_> {
        const PAIRS: bool = true;
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            unsafe {
                let mut acc = L::splat(0.0);
                for (a, x) in self.a.iter().zip(self.x) {
                    acc = L::dot_pairs(acc, L::codes(a.as_ptr().cast()), *x);
                }
                L::store(self.out.as_mut_ptr().cast(), acc);
            }
        }
    }

    /// Machines without the instruction give its bits, for numbers whose products are multiples of the smallest normal
    /// one.
    #[test]
    fn the_instruction_is_two_multiply_adds() {
        if !crate::Isa::Avx512.is_available() || !is_x86_feature_detected!("avx512bf16") {
            println!("not tested: no such instruction here");
            return;
        }
        let mut state = 1u64;
        let mut bits = |max_exponent: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let exponent = 71 + (state >> 40) % (max_exponent - 71);
            (state >> 33) as u32 & 0x807f | (exponent as u32) << 7
        };
        // Near the limit, where sums cancel, and over a wide range.
        for max_exponent in [73, 80, 150] {
            for _ in 0..20_000 {
                let a: [[u32; 16]; 8] = std::array::from_fn(|_| {
                    std::array::from_fn(|_| bits(max_exponent) | bits(max_exponent) << 16)
                });
                let x: [u32; 8] = std::array::from_fn(|_| bits(max_exponent) | bits(max_exponent) << 16);
                let [mut with, mut without, mut scalar] = [[0; 16]; 3];
                // SAFETY: the machine has the instructions.
                unsafe {
                    with_bf16(Dots { a: &a, x: &x, out: &mut with });
                    with_features(Dots { a: &a, x: &x, out: &mut without });
                    super::super::scalar::Scalar::call(Dots { a: &a, x: &x, out: &mut scalar });
                }
                assert_eq!(with, without);
                assert_eq!(with, scalar);
            }
        }
    }
}
