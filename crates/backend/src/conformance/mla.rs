//! Latent attention against its definition, in which every position's keys and values are projected up.

use base::DType;

use super::{
    Check, Failure, Make, Tolerance,
    approx::{self, Approx, close},
    attention::{dot, rope_spec, rotate, softmax},
    eval,
    random::Random,
    same_in_company,
    sequences::{self, BLOCK_LEN, LENS, N_BLOCKS, Step},
    stored::{Kind, Stored},
};
use crate::{Backend, CacheRow, CacheSpec, LatentParts, MlaSpec, RopeSpec, RopeStyle};

const N_LAYERS: usize = 2;

pub(super) fn checks<B: Backend>() -> Vec<(&'static str, Check<B>)> {
    vec![
        ("latent attention", |make, t| {
            attends(make, t, &SPEC, RopeStyle::Interleaved, Kind::Blocks(DType::F32))
        }),
        ("latent attention, other shapes", |make, t| {
            let spec = MlaSpec { n_heads: 5, nope_dim: 24, rope_dim: 10, v_dim: 40, ..SPEC };
            attends(make, t, &spec, RopeStyle::Half, Kind::Blocks(DType::BF16))
        }),
        ("latent attention, up-projections apart", apart),
        ("latent attention, quantised", |make, t| {
            let mlx = Kind::Affine { bits: 8, group_size: 64, scale_dtype: DType::BF16, has_biases: true };
            attends(make, t, &SPEC, RopeStyle::Interleaved, mlx)?;
            attends(make, t, &SPEC, RopeStyle::Interleaved, Kind::Fp8)?;
            attends(make, t, &SPEC, RopeStyle::Interleaved, Kind::Blocks(DType::Q8_0))
        }),
    ]
}

const SPEC: MlaSpec =
    MlaSpec { n_heads: 4, nope_dim: 32, rope_dim: 16, v_dim: 32, latent_dim: 64, scale: 0.125 };

/// What one layer attends to: of every sequence `[len, width]`.
struct Layer {
    up: Stored,
    q: Vec<Vec<f32>>,
    latent: Vec<Vec<f32>>,
    k_rope: Vec<Vec<f32>>,
}

impl Layer {
    fn random(spec: &MlaSpec, kind: Kind, random: &mut Random) -> Layer {
        let n_up = spec.n_heads * (spec.nope_dim + spec.v_dim);
        let mut of_seqs = |width: usize| LENS.map(|len| random.floats(len * width)).to_vec();
        Layer {
            q: of_seqs(q_width(spec)),
            latent: of_seqs(spec.latent_dim),
            k_rope: of_seqs(spec.rope_dim),
            up: Stored::random(kind, n_up, spec.latent_dim, random),
        }
    }
}

fn q_width(spec: &MlaSpec) -> usize {
    spec.n_heads * (spec.nope_dim + spec.rope_dim)
}

fn attends<B: Backend>(
    make: &mut Make<'_, B>,
    t: &Tolerance,
    spec: &MlaSpec,
    style: RopeStyle,
    kind: Kind,
) -> Result<(), Failure> {
    let mut random = Random::new(30);
    let cached = Tolerance { value: t.cache, ..*t };
    let rope = rope_spec(style, spec.rope_dim, 1.0);
    let layers: [Layer; N_LAYERS] = std::array::from_fn(|_| Layer::random(spec, kind, &mut random));
    let ragged = run(make, spec, &rope, &layers, &sequences::ragged())?;
    let alone = run(make, spec, &rope, &layers, &sequences::alone())?;
    for (i, layer) in layers.iter().enumerate() {
        for (seq, &len) in LENS.iter().enumerate() {
            let what = format!("{kind:?}, layer {i}, sequence {seq}");
            let expected = reference(spec, &rope, layer, seq, len, &cached);
            close(&what, &alone[i][seq], &expected)?;
            close(&format!("{what} in chunks"), &ragged[i][seq], &expected)?;
            same_in_company(&what, &alone[i][seq], &ragged[i][seq], t)?;
        }
    }
    Ok(())
}

/// Up-projections that lie apart, those of the keys with rows and columns exchanged, give what joined ones give.
fn apart<B: Backend>(make: &mut Make<'_, B>, t: &Tolerance) -> Result<(), Failure> {
    let mut random = Random::new(31);
    let layer = Layer::random(&SPEC, Kind::Blocks(DType::F32), &mut random);
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for head in 0..SPEC.n_heads {
        let row = |r: usize| layer.up.row(head * (SPEC.nope_dim + SPEC.v_dim) + r);
        let exchanged = (0..SPEC.latent_dim).flat_map(|c| (0..SPEC.nope_dim).map(move |r| row(r)[c]));
        keys.push(Stored::floats(SPEC.latent_dim, SPEC.nope_dim, exchanged));
        let of_values = (SPEC.nope_dim..SPEC.nope_dim + SPEC.v_dim).flat_map(|r| row(r).iter().copied());
        values.push(Stored::floats(SPEC.v_dim, SPEC.latent_dim, of_values));
    }
    let mut b = make()?;
    let keys = keys.iter().map(Stored::view).collect::<Result<Vec<_>, Failure>>()?;
    let values = values.iter().map(Stored::view).collect::<Result<Vec<_>, Failure>>()?;
    let joined = b.latent_up(&LatentParts::Joined(layer.up.view()?), &SPEC)?;
    let apart = b.latent_up(&LatentParts::Apart { keys: &keys, values: &values }, &SPEC)?;
    let MlaSpec { latent_dim, rope_dim, .. } = SPEC;
    let row = CacheRow::Latent { latent_dim, rope_dim };
    b.allocate_cache(CacheSpec { n_layers: 1, n_blocks: N_BLOCKS, block_len: BLOCK_LEN, row })?;
    let step: Step = vec![(0, 0..LENS[0])];
    let inputs = b.inputs(&sequences::batch(&step))?;
    let rope = b.rope_table(&rope_spec(RopeStyle::Interleaved, rope_dim, 1.0), &inputs)?;
    let mut results = Vec::new();
    for up in [&joined, &apart] {
        let rows = [
            b.tensor(&layer.q[0], q_width(&SPEC))?,
            b.tensor(&layer.latent[0], latent_dim)?,
            b.tensor(&layer.k_rope[0], rope_dim)?,
        ];
        let y = b.mla(rows, up, &rope, 0, &SPEC, &inputs)?;
        results.push(eval(&mut b, &y)?);
    }
    same_in_company("up-projections apart", &results[0], &results[1], t)
}

/// The results of each layer and sequence, `[len, n_heads * v_dim]`.
fn run<B: Backend>(
    make: &mut Make<'_, B>,
    spec: &MlaSpec,
    rope: &RopeSpec,
    layers: &[Layer; N_LAYERS],
    steps: &[Step],
) -> Result<Vec<Vec<Vec<f32>>>, Failure> {
    let mut b = make()?;
    let MlaSpec { latent_dim, rope_dim, .. } = *spec;
    b.allocate_cache(CacheSpec {
        n_layers: N_LAYERS,
        n_blocks: N_BLOCKS,
        block_len: BLOCK_LEN,
        row: CacheRow::Latent { latent_dim, rope_dim },
    })?;
    let mut ups = Vec::new();
    for layer in layers {
        ups.push(b.latent_up(&LatentParts::Joined(layer.up.view()?), spec)?);
    }
    leave_behind(&mut b, spec, &ups[0])?;
    let out_width = spec.n_heads * spec.v_dim;
    let mut found = vec![sequences::zeros(out_width); N_LAYERS];
    for step in steps {
        let inputs = b.inputs(&sequences::batch(step))?;
        let rope = b.rope_table(rope, &inputs)?;
        for (i, (layer, up)) in layers.iter().zip(&ups).enumerate() {
            let q_width = q_width(spec);
            let inputs_of_layer = [
                b.tensor(&sequences::gather(step, &layer.q, q_width), q_width)?,
                b.tensor(&sequences::gather(step, &layer.latent, latent_dim), latent_dim)?,
                b.tensor(&sequences::gather(step, &layer.k_rope, rope_dim), rope_dim)?,
            ];
            let y = b.mla(inputs_of_layer, up, &rope, i, spec, &inputs)?;
            sequences::scatter(step, &eval(&mut b, &y)?, &mut found[i], out_width);
        }
    }
    Ok(found)
}

/// Fills the cache with large values.
fn leave_behind<B: Backend>(b: &mut B, spec: &MlaSpec, up: &B::LatentUp) -> Result<(), Failure> {
    let batch = sequences::before();
    let inputs = b.inputs(&batch)?;
    let rope = b.rope_table(&rope_spec(RopeStyle::Half, 0, 1.0), &inputs)?;
    for layer in 0..N_LAYERS {
        let mut large = |width: usize| b.tensor(&vec![1e3; batch.n_rows() * width], width);
        let rows = [large(q_width(spec))?, large(spec.latent_dim)?, large(spec.rope_dim)?];
        let y = b.mla(rows, up, &rope, layer, spec, &inputs)?;
        eval(b, &y)?;
    }
    Ok(())
}

fn reference(
    spec: &MlaSpec,
    rope: &RopeSpec,
    layer: &Layer,
    seq: usize,
    len: usize,
    t: &Tolerance,
) -> Vec<Approx> {
    let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let latents: Vec<Vec<f64>> = layer.latent[seq].chunks(spec.latent_dim).map(wide).collect();
    let turned = |(position, x): (usize, &[f32])| {
        let mut x = wide(x);
        rotate(&mut x, rope, position);
        x
    };
    let k_ropes: Vec<Vec<f64>> = layer.k_rope[seq].chunks(spec.rope_dim).enumerate().map(turned).collect();
    let mut out = Vec::new();
    for (row, q) in layer.q[seq].chunks(q_width(spec)).enumerate().take(len) {
        for (head, q) in q.chunks(spec.nope_dim + spec.rope_dim).enumerate() {
            let (q_nope, q_rope) = q.split_at(spec.nope_dim);
            let (q_nope, q_rope) = (wide(q_nope), turned((row, q_rope)));
            let first = head * (spec.nope_dim + spec.v_dim);
            let score = |key: usize| {
                let k_nope = (0..spec.nope_dim).map(|i| dot(layer.up.row(first + i), &latents[key]));
                let dot = dot(&q_nope, &k_nope.collect::<Vec<_>>()) + dot(&q_rope, &k_ropes[key]);
                dot * f64::from(spec.scale)
            };
            let weights = softmax((0..=row).map(score));
            // values are linear in the latents, so their sum may be taken before the projection
            let mixed = |d: usize| weights.iter().zip(&latents).map(|(w, l)| w * l[d]).sum::<f64>();
            let mixed: Vec<Approx> =
                (0..spec.latent_dim).map(|d| Approx { value: mixed(d), off: 0.0 }).collect();
            let values = first + spec.nope_dim..first + spec.nope_dim + spec.v_dim;
            out.extend(approx::linear(&layer.up, values, &mixed, t));
        }
    }
    out
}
