//! Sixteen lanes as one 512-bit register.

use std::arch::x86_64::*;

use super::{Kernel, Lanes};

#[derive(Clone, Copy)]
pub(super) struct Avx512;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn with_features<K: Kernel>(kernel: K) {
    unsafe { kernel.run::<Avx512>() }
}

impl Lanes for Avx512 {
    const QUANT_ROWS: usize = 6;
    const QUANT_TILES: usize = 2;
    const TWO_SUM_ROWS: usize = 2;
    const QUERIES: usize = 8;
    type F = __m512;
    type I = __m512i;
    type C = __m512i;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) {
        unsafe { with_features(kernel) }
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
    unsafe fn load_bf16(p: *const u16) -> __m512 {
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
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
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
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
