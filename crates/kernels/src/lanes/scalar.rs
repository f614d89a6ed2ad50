//! Sixteen lanes as arrays: the reference for every other family.

use std::array::from_fn;

use half::{bf16, f16};

use super::{Kernel, Lanes, N_LANES};

#[derive(Clone, Copy)]
pub(super) struct Scalar;

impl Lanes for Scalar {
    const QUANT_ROWS: usize = 2;
    const QUANT_TILES: usize = 1;
    const TWO_SUM_ROWS: usize = 0;
    const FLOAT_ROWS: usize = 4;
    const FLOAT_TILES: usize = 1;
    const PAIR_TILES: usize = 4;
    const SUMS: usize = 6;
    type F = [f32; N_LANES];
    type I = [i32; N_LANES];
    type C = [u8; 4 * N_LANES];

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) {
        unsafe { kernel.run::<Scalar>() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; N_LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        unsafe { p.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        let bits = unsafe { p.cast::<[u16; N_LANES]>().read_unaligned() };
        bits.map(|b| f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self::F {
        unsafe { p.cast::<[i8; N_LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, a: Self::F) {
        unsafe { p.cast::<Self::F>().write_unaligned(a) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: Self::F, a: Self::C, x: u32) -> Self::F {
        let half = |bytes: [u8; 2]| bf16::from_le_bytes(bytes).to_f32();
        let [x0, x1] = [half([x as u8, (x >> 8) as u8]), half([(x >> 16) as u8, (x >> 24) as u8])];
        from_fn(|i| {
            let [a0, a1] = [half([a[4 * i], a[4 * i + 1]]), half([a[4 * i + 2], a[4 * i + 3]])];
            a0.mul_add(x0, a1.mul_add(x1, acc[i]))
        })
    }
    #[inline(always)]
    unsafe fn splat_shifted<const SHIFT: u32>(x: i32) -> Self::I {
        [x << SHIFT; N_LANES]
    }
    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> Self::C {
        unsafe { p.cast::<Self::C>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn low(c: Self::C) -> Self::C {
        c.map(|b| b & 15)
    }
    #[inline(always)]
    unsafe fn high(c: Self::C) -> Self::C {
        c.map(|b| b >> 4)
    }
    #[inline(always)]
    unsafe fn merge(low: Self::C, plane: Self::C, left: i32, mask: u8) -> Self::C {
        let shift = |b: u8| if left >= 0 { b << left } else { b >> -left };
        from_fn(|i| low[i] | shift(plane[i]) & mask)
    }
    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: Self::I, c: Self::C, x: *const i8) -> Self::I {
        let x = unsafe { x.cast::<[i8; 4]>().read_unaligned() };
        from_fn(|i| acc[i] + (0..4).map(|j| i32::from(c[4 * i + j]) * i32::from(x[j])).sum::<i32>())
    }
}
