//! The numbers that groups move and add: what a slice of them is when only its bytes and its kind are known, and the
//! sum in rank order. Knows no ranks' links.

use bytemuck::{Pod, cast_slice, cast_slice_mut};
use half::{bf16, f16, slice::HalfFloatSliceExt};

/// Numbers that are added at once, in `f32`s on the stack.
const BLOCK: usize = 512;

/// What a number is, on the wire as in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ElementKind {
    /// 32 bits.
    F32 = 1,
    /// IEEE half precision.
    F16 = 2,
    /// The upper half of an `f32`.
    Bf16 = 3,
}

impl ElementKind {
    /// Bytes of a number.
    pub fn n_bytes(self) -> usize {
        match self {
            ElementKind::F32 => size_of::<f32>(),
            ElementKind::F16 | ElementKind::Bf16 => size_of::<f16>(),
        }
    }
}

/// A number that groups move and add.
pub trait Element: Pod {
    /// Which one it is.
    const KIND: ElementKind;
}

impl Element for f32 {
    const KIND: ElementKind = ElementKind::F32;
}

impl Element for f16 {
    const KIND: ElementKind = ElementKind::F16;
}

impl Element for bf16 {
    const KIND: ElementKind = ElementKind::Bf16;
}

/// A slice of [`Element`]s: `(&x[..]).into()`.
#[derive(Clone, Copy)]
pub struct Numbers<'a> {
    kind: ElementKind,
    bytes: &'a [u8],
}

/// A slice of [`Element`]s to write to: `(&mut x[..]).into()`.
pub struct NumbersMut<'a> {
    kind: ElementKind,
    bytes: &'a mut [u8],
}

impl<'a, T: Element> From<&'a [T]> for Numbers<'a> {
    fn from(numbers: &'a [T]) -> Numbers<'a> {
        Numbers { kind: T::KIND, bytes: cast_slice(numbers) }
    }
}

impl<'a, T: Element> From<&'a mut [T]> for NumbersMut<'a> {
    fn from(numbers: &'a mut [T]) -> NumbersMut<'a> {
        NumbersMut { kind: T::KIND, bytes: cast_slice_mut(numbers) }
    }
}

impl<'a> Numbers<'a> {
    /// What they are.
    pub fn kind(&self) -> ElementKind {
        self.kind
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.n_bytes()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> NumbersMut<'a> {
    /// The same, to read only.
    pub fn as_ref(&self) -> Numbers<'_> {
        Numbers { kind: self.kind, bytes: self.bytes }
    }

    pub(crate) fn bytes(self) -> &'a mut [u8] {
        self.bytes
    }
}

/// `own = Σ_r part(r)` over all `n` ranks in their order, where `own` holds part `me`; formed in `f32` and rounded once.
pub(crate) fn sum_in_rank_order<'a>(
    kind: ElementKind,
    own: &mut [u8],
    me: usize,
    n: usize,
    part: impl Fn(usize) -> &'a [u8],
) {
    match kind {
        ElementKind::F32 => sum::<f32>(cast_slice_mut(own), me, n, |r| cast_slice(part(r))),
        ElementKind::F16 => sum::<f16>(cast_slice_mut(own), me, n, |r| cast_slice(part(r))),
        ElementKind::Bf16 => sum::<bf16>(cast_slice_mut(own), me, n, |r| cast_slice(part(r))),
    }
}

/// Numbers that can be added in `f32`.
trait Wide: Element {
    /// `to = from`
    fn widen(from: &[Self], to: &mut [f32]);
    /// `to = from`, rounded to nearest, ties to even.
    fn narrow(from: &[f32], to: &mut [Self]);
}

impl Wide for f32 {
    fn widen(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn narrow(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Wide for f16 {
    fn widen(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }

    fn narrow(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
}

/// By our own hands, as loops without branches: four times as fast as one number at a time.
impl Wide for bf16 {
    fn widen(from: &[bf16], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = f32::from_bits(u32::from(from.to_bits()) << 16));
    }

    fn narrow(from: &[f32], to: &mut [bf16]) {
        to.iter_mut().zip(from).for_each(|(to, from)| {
            let bits = from.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            // a NaN stays one, and becomes quiet
            let quiet = bits >> 16 | 0x40;
            *to = bf16::from_bits(if from.is_nan() { quiet } else { rounded } as u16);
        });
    }
}

fn sum<'a, T: Wide>(own: &mut [T], me: usize, n: usize, part: impl Fn(usize) -> &'a [T]) {
    let (mut total, mut next) = ([0.0; BLOCK], [0.0; BLOCK]);
    for start in (0..own.len()).step_by(BLOCK) {
        let range = start..own.len().min(start + BLOCK);
        let (total, next) = (&mut total[..range.len()], &mut next[..range.len()]);
        for rank in 0..n {
            let from = if rank == me { &own[range.clone()] } else { &part(rank)[range.clone()] };
            if rank == 0 {
                T::widen(from, total);
                continue;
            }
            T::widen(from, next);
            total.iter_mut().zip(&*next).for_each(|(total, next)| *total += next);
        }
        T::narrow(total, &mut own[range]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2048 + 1 + 1 is 2048 if every addition rounds to half precision, and 2050 if the sum does.
    #[test]
    fn halves_are_rounded_once() {
        let parts = [2048.0, 1.0, 1.0].map(|x| vec![f16::from_f32(x); 700]);
        for me in 0..3 {
            let mut own = parts[me].clone();
            sum_in_rank_order(ElementKind::F16, cast_slice_mut(&mut own), me, 3, |r| cast_slice(&parts[r]));
            assert!(own.iter().all(|x| x.to_f32() == 2050.0), "{me}");
        }
        let parts = [256.0, 1.0, 1.0].map(|x| vec![bf16::from_f32(x); 3]);
        let mut own = parts[2].clone();
        sum_in_rank_order(ElementKind::Bf16, cast_slice_mut(&mut own), 2, 3, |r| cast_slice(&parts[r]));
        assert!(own.iter().all(|x| x.to_f32() == 258.0));
    }

    #[test]
    fn bf16_is_what_the_crate_of_halves_makes_of_it() {
        let bits = (0..1 << 16)
            .flat_map(|high: u32| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| high << 16 | low));
        let from: Vec<f32> = bits.map(f32::from_bits).collect();
        let mut to = vec![bf16::ZERO; from.len()];
        bf16::narrow(&from, &mut to);
        assert!(from.iter().zip(&to).all(|(from, to)| bf16::from_f32(*from).to_bits() == to.to_bits()));
        let mut back = vec![0.0; to.len()];
        bf16::widen(&to, &mut back);
        assert!(to.iter().zip(&back).all(|(to, back)| to.to_f32().to_bits() == back.to_bits()));
    }

    #[test]
    fn order_shows_in_f32_and_is_the_ranks() {
        let parts = [1e8_f32, -1e8, 1.5];
        for me in 0..3 {
            let mut own = [parts[me]];
            sum_in_rank_order(ElementKind::F32, cast_slice_mut(&mut own), me, 3, |r| {
                cast_slice(&parts[r..=r])
            });
            assert_eq!(own, [1.5]);
        }
    }
}
