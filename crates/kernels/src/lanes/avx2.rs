//! Sixteen lanes as two 256-bit registers.

use std::arch::x86_64::*;
use std::array::from_fn;

use super::{Kernel, Lanes};

#[derive(Clone, Copy)]
pub(super) struct Avx2;

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_features<K: Kernel>(kernel: K) {
    unsafe { kernel.run::<Avx2>() }
}

impl Lanes for Avx2 {
    const QUANT_ROWS: usize = 2;
    const QUANT_TILES: usize = 1;
    const TWO_SUM_ROWS: usize = 0;
    const FLOAT_ROWS: usize = 4;
    const FLOAT_TILES: usize = 1;
    const PAIR_TILES: usize = 4;
    const SUMS: usize = 6;
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type C = [__m256i; 2];

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) {
        unsafe { with_features(kernel) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        unsafe {
            [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))]
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self::F {
        unsafe {
            let bytes = _mm_loadu_si128(p.cast());
            let (low, high) = (_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes)));
            [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, a: Self::F) {
        unsafe {
            _mm256_storeu_ps(p, a[0]);
            _mm256_storeu_ps(p.add(8), a[1]);
        }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(a[0], a[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: Self::F, a: Self::C, x: u32) -> Self::F {
        unsafe {
            let (x0, x1) = halves(_mm256_set1_epi32(x as i32));
            from_fn(|i| {
                let (a0, a1) = halves(a[i]);
                _mm256_fmadd_ps(a0, x0, _mm256_fmadd_ps(a1, x1, acc[i]))
            })
        }
    }
    #[inline(always)]
    unsafe fn splat_shifted<const SHIFT: u32>(x: i32) -> Self::I {
        unsafe { [_mm256_set1_epi32(x << SHIFT); 2] }
    }
    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        unsafe { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    }
    #[inline(always)]
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I {
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> Self::C {
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn low(c: Self::C) -> Self::C {
        unsafe {
            let mask = _mm256_set1_epi8(15);
            [_mm256_and_si256(c[0], mask), _mm256_and_si256(c[1], mask)]
        }
    }
    #[inline(always)]
    unsafe fn high(c: Self::C) -> Self::C {
        unsafe { Self::low([_mm256_srli_epi16::<4>(c[0]), _mm256_srli_epi16::<4>(c[1])]) }
    }
    #[inline(always)]
    unsafe fn merge(low: Self::C, plane: Self::C, left: i32, mask: u8) -> Self::C {
        unsafe {
            let (count, mask) = (_mm_cvtsi32_si128(left.abs()), _mm256_set1_epi8(mask as i8));
            let shift = |x| if left >= 0 { _mm256_sll_epi16(x, count) } else { _mm256_srl_epi16(x, count) };
            let bits = plane.map(|x| _mm256_and_si256(shift(x), mask));
            [_mm256_or_si256(low[0], bits[0]), _mm256_or_si256(low[1], bits[1])]
        }
    }
    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: Self::I, c: Self::C, x: *const i8) -> Self::I {
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            let dots = if WIDE {
                [dot_wide(c[0], x), dot_wide(c[1], x)]
            } else {
                [dot_narrow(c[0], x), dot_narrow(c[1], x)]
            };
            [_mm256_add_epi32(acc[0], dots[0]), _mm256_add_epi32(acc[1], dots[1])]
        }
    }
}

/// The first and the second of pairs of bf16.
#[inline(always)]
unsafe fn halves(pairs: __m256i) -> (__m256, __m256) {
    unsafe {
        let second = _mm256_and_si256(pairs, _mm256_set1_epi32(!0xffff));
        (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(second))
    }
}

/// Sums of pairs fit 16 bits: 2 · 127 · 127.
#[inline(always)]
unsafe fn dot_narrow(c: __m256i, x: __m256i) -> __m256i {
    unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(c, x), _mm256_set1_epi16(1)) }
}

/// With codes up to 255 they do not, so bytes are widened first: even ones and odd ones.
#[inline(always)]
unsafe fn dot_wide(c: __m256i, x: __m256i) -> __m256i {
    unsafe {
        let c_even = _mm256_and_si256(c, _mm256_set1_epi16(255));
        let c_odd = _mm256_srli_epi16::<8>(c);
        let x_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
        let x_odd = _mm256_srai_epi16::<8>(x);
        _mm256_add_epi32(_mm256_madd_epi16(c_even, x_even), _mm256_madd_epi16(c_odd, x_odd))
    }
}
