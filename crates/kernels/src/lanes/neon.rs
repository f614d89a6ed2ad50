//! Sixteen lanes on aarch64: arrays, which the compiler turns into four registers each, and the dot-product
//! instruction, which it does not find by itself.

use std::arch::aarch64::*;
use std::arch::asm;

use super::scalar::Scalar;
use super::{Kernel, Lanes, N_LANES};

#[derive(Clone, Copy)]
pub(super) struct Neon;

#[target_feature(enable = "neon,dotprod")]
unsafe fn with_features<K: Kernel>(kernel: K) {
    unsafe { kernel.run::<Neon>() }
}

impl Lanes for Neon {
    const QUANT_ROWS: usize = 2;
    const QUANT_TILES: usize = 1;
    const QUERIES: usize = 4;
    type F = [f32; N_LANES];
    type I = [int32x4_t; 4];
    type C = [uint8x16_t; 4];

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) {
        unsafe { with_features(kernel) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        unsafe { Scalar::splat(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        unsafe { Scalar::load(p) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        unsafe { Scalar::load_f16(p) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        unsafe { Scalar::load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, a: Self::F) {
        unsafe { Scalar::store(p, a) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { Scalar::mul(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { Scalar::fma(a, b, c) }
    }
    #[inline(always)]
    unsafe fn splat_shifted<const SHIFT: u32>(x: i32) -> Self::I {
        unsafe { [vdupq_n_s32(x << SHIFT); 4] }
    }
    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        let mut out = [0.0; N_LANES];
        for (i, a) in a.into_iter().enumerate() {
            unsafe { vst1q_f32(out.as_mut_ptr().add(4 * i), vcvtq_f32_s32(a)) };
        }
        out
    }
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> Self::C {
        unsafe { [vld1q_u8(p), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48))] }
    }
    #[inline(always)]
    unsafe fn low(c: Self::C) -> Self::C {
        unsafe { c.map(|c| vandq_u8(c, vdupq_n_u8(15))) }
    }
    #[inline(always)]
    unsafe fn high(c: Self::C) -> Self::C {
        unsafe { c.map(|c| vshrq_n_u8::<4>(c)) }
    }
    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: Self::I, c: Self::C, x: *const i8) -> Self::I {
        unsafe {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned()));
            // The instruction takes signed bytes: codes above 127 go in as code - 128, and 128 · Σx comes after.
            let shift = vdupq_n_u8(if WIDE { 128 } else { 0 });
            let mut acc = acc;
            for i in 0..4 {
                acc[i] = sdot(acc[i], vreinterpretq_s8_u8(veorq_u8(c[i], shift)), x);
                if WIDE {
                    acc[i] = sdot(sdot(acc[i], vdupq_n_s8(64), x), vdupq_n_s8(64), x);
                }
            }
            acc
        }
    }
}

/// acc + dot products of four bytes per lane.
#[inline(always)]
unsafe fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}
