//! Sixteen lanes as four 128-bit registers. Dot products and prefetches have no stable functions yet and are written
//! as assembly.

use std::arch::aarch64::*;
use std::arch::asm;
use std::array::from_fn;

use super::{Kernel, Lanes};

#[derive(Clone, Copy)]
pub(super) struct Neon;

#[target_feature(enable = "neon,dotprod")]
unsafe fn with_features<K: Kernel>(kernel: K) {
    unsafe { kernel.run::<Neon>() }
}

impl Lanes for Neon {
    const QUANT_ROWS: usize = 2;
    const QUANT_TILES: usize = 1;
    const TWO_SUM_ROWS: usize = 0;
    const FLOAT_ROWS: usize = 4;
    const FLOAT_TILES: usize = 1;
    const PAIR_TILES: usize = 4;
    const SUMS: usize = 6;
    type F = [float32x4_t; 4];
    type I = [int32x4_t; 4];
    type C = [uint8x16_t; 4];

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) {
        unsafe { with_features(kernel) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        unsafe { from_fn(|i| vld1q_f32(p.add(4 * i))) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        unsafe { from_fn(|i| vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p.add(4 * i))))) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self::F {
        unsafe {
            let bytes = vld1q_s8(p);
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)));
            [vget_low_s16(low), vget_high_s16(low), vget_low_s16(high), vget_high_s16(high)]
                .map(|x| vcvtq_f32_s32(vmovl_s16(x)))
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, a: Self::F) {
        for (i, a) in a.into_iter().enumerate() {
            unsafe { vst1q_f32(p.add(4 * i), a) };
        }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { from_fn(|i| vmulq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        unsafe { from_fn(|i| vmaxnmq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a[0], a[1]), vmaxnmq_f32(a[2], a[3]))) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { from_fn(|i| vfmaq_f32(c[i], a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: Self::F, a: Self::C, x: u32) -> Self::F {
        unsafe {
            let (x0, x1) = halves(vdupq_n_u32(x));
            from_fn(|i| {
                let (a0, a1) = halves(vreinterpretq_u32_u8(a[i]));
                vfmaq_f32(vfmaq_f32(acc[i], a1, x1), a0, x0)
            })
        }
    }
    #[inline(always)]
    unsafe fn splat_shifted<const SHIFT: u32>(x: i32) -> Self::I {
        unsafe { [vdupq_n_s32(x << SHIFT); 4] }
    }
    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        unsafe { a.map(|a| vcvtq_f32_s32(a)) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I {
        unsafe { from_fn(|i| vaddq_s32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe {
            asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags));
        }
    }
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> Self::C {
        unsafe { from_fn(|i| vld1q_u8(p.add(16 * i))) }
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
    unsafe fn merge(low: Self::C, plane: Self::C, left: i32, mask: u8) -> Self::C {
        unsafe {
            let bits = plane.map(|x| vandq_u8(vshlq_u8(x, vdupq_n_s8(left as i8)), vdupq_n_u8(mask)));
            from_fn(|i| vorrq_u8(low[i], bits[i]))
        }
    }
    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: Self::I, c: Self::C, x: *const i8) -> Self::I {
        unsafe {
            let x = vcreate_s8(u64::from(x.cast::<u32>().read_unaligned()));
            if !WIDE {
                return from_fn(|i| sdot(acc[i], vreinterpretq_s8_u8(c[i]), x));
            }
            // The instruction takes signed bytes: wide codes go in as code - 128, and 128 · Σx is the same in all lanes.
            let shift = vdupq_n_s8(64);
            let rest = sdot(sdot(vdupq_n_s32(0), shift, x), shift, x);
            from_fn(|i| {
                let c = veorq_u8(c[i], vdupq_n_u8(128));
                sdot(vaddq_s32(acc[i], rest), vreinterpretq_s8_u8(c), x)
            })
        }
    }
}

/// The first and the second of pairs of bf16.
#[inline(always)]
unsafe fn halves(pairs: uint32x4_t) -> (float32x4_t, float32x4_t) {
    unsafe {
        let second = vandq_u32(pairs, vdupq_n_u32(!0xffff));
        (vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)), vreinterpretq_f32_u32(second))
    }
}

/// acc + dot products of each lane's four bytes of `a` with the first four of `x`.
#[inline(always)]
unsafe fn sdot(mut acc: int32x4_t, a: int8x16_t, x: int8x8_t) -> int32x4_t {
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {a:v}.16b, {x:v}.4b[0]",
            acc = inout(vreg) acc, a = in(vreg) a, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::lanes::N_LANES;

    /// Results of all operations, bit by bit; integers as f32, which holds them exactly.
    struct Operations<'a> {
        halves: [u16; N_LANES],
        bytes: [u8; 4 * N_LANES],
        results: &'a mut Vec<u32>,
    }

    impl Kernel for Operations<'_> {
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            unsafe {
                let (f, c) = (L::load_f16(self.halves.as_ptr()), L::codes(self.bytes.as_ptr()));
                let b = L::dot_pairs(f, c, u32::from(self.halves[3]) << 16 | u32::from(self.halves[7]));
                let i = L::load_i8(self.bytes.as_ptr().cast());
                let x = [-127i8, 127, self.bytes[0] as i8 | 1, 100];
                let start = L::splat_shifted::<7>(i32::from(self.halves[1]) - 100);
                let (low, high) = (L::low(c), L::high(c));
                let values = [
                    f,
                    b,
                    i,
                    L::mul(f, b),
                    L::max(i, L::load_i8(self.halves.as_ptr().cast())),
                    L::splat(L::largest(i)),
                    L::fma(f, L::splat(1.0 / 3.0), L::mul(b, b)),
                    L::to_f32(L::dot::<true>(start, c, x.as_ptr())),
                    L::to_f32(L::dot::<false>(L::dot::<true>(start, high, x.as_ptr()), low, x.as_ptr())),
                    L::to_f32(L::dot::<false>(start, L::merge(low, high, 3, 0b0111_0000), x.as_ptr())),
                    L::to_f32(L::dot::<false>(start, L::merge(low, c, -3, 0b0001_0000), x.as_ptr())),
                ];
                for v in values {
                    let mut out = [0.0; N_LANES];
                    L::store(out.as_mut_ptr(), v);
                    // Which not-a-number it is does not matter.
                    self.results.extend(out.map(|v| if v.is_nan() { f32::NAN } else { v }.to_bits()));
                }
            }
        }
    }

    /// Where there is no NEON this fails: nothing would be tested.
    #[test]
    fn every_operation_gives_the_bits_of_the_reference() {
        for first in (0..=u16::MAX).step_by(N_LANES) {
            let halves = from_fn(|i| first + i as u16);
            let bytes = from_fn(|i| first.wrapping_mul(40_503).wrapping_mul(i as u16 + 1).to_be_bytes()[0]);
            let [expected, found] = [Isa::Scalar, Isa::Neon].map(|isa| {
                let mut results = Vec::new();
                unsafe { isa.call(Operations { halves, bytes, results: &mut results }) };
                results
            });
            assert_eq!(found, expected, "{halves:?} {bytes:?}");
        }
    }
}
