//! A weight as a checkpoint stores it: one tensor of numbers, or codes with scales beside them in tensors of their own. It
//! finds the tensors that belong together and checks that they fit; what the weight is for is not known here.

use std::ops::Range;

use base::{AffineView, DType, Fp8View, MatrixView, Mxfp4View, WeightView};

use crate::{
    Checkpoint, WeightsError,
    checkpoint::Entry,
    map::Mapped,
    tensor::{Code, Element},
};

/// Bits of a word of codes.
const WORD_BITS: usize = 32;
/// What the name of a weight ends with.
const WEIGHT: &str = "weight";

/// A matrix `[n_rows, n_cols]`, found and checked; nothing of its values has been read.
#[derive(Clone, Debug)]
pub struct Stored<'a> {
    form: Form,
    n_rows: usize,
    n_cols: usize,
    pieces: Vec<Piece<'a>>,
}

/// Rows of a stored matrix that were read from its file.
#[derive(Debug)]
pub struct ReadRows {
    form: Form,
    rows: Range<usize>,
    n_cols: usize,
    /// With the bytes from one row to the next.
    pieces: Vec<(Vec<u8>, usize)>,
}

/// How the bytes stand for numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// One piece.
    Blocks(DType),
    /// Codes, scales, and biases where there is a third piece.
    Affine { bits: u32, group_size: usize, scale_dtype: DType },
    /// Codes, and scales of square blocks.
    Fp8,
    /// Codes, and exponents of groups.
    Mxfp4,
}

/// Rows of one tensor, one after the other.
#[derive(Clone, Copy, Debug)]
struct Piece<'a> {
    file: &'a Mapped,
    start: usize,
    row_bytes: usize,
    /// Rows of the matrix that one row of the tensor is for.
    n_rows_each: usize,
}

impl Piece<'_> {
    /// The bytes of the file that some rows of the matrix need.
    fn bytes(&self, rows: Range<usize>) -> Range<usize> {
        let at = |row: usize| self.start + row * self.row_bytes;
        at(rows.start / self.n_rows_each)..at(rows.end.div_ceil(self.n_rows_each))
    }
}

impl<'a> Stored<'a> {
    /// The whole matrix in the mapped file.
    pub fn view(&self) -> WeightView<'a> {
        let slice = |p: &Piece<'a>| (&p.file.bytes()[p.bytes(0..self.n_rows)], p.row_bytes);
        assemble(self.form, 0..self.n_rows, self.n_cols, self.pieces.iter().map(slice))
    }

    /// Some of its rows, read into memory of their own: for who keeps a copy anyway and has no use for the file's pages beside it.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn read(&self, rows: Range<usize>) -> Result<ReadRows, WeightsError> {
        assert!(rows.start <= rows.end && rows.end <= self.n_rows, "rows {rows:?} of {}", self.n_rows);
        let read = |p: &Piece<'_>| Ok((p.file.read(p.bytes(rows.clone()))?, p.row_bytes));
        let pieces = self.pieces.iter().map(read).collect::<Result<_, WeightsError>>()?;
        Ok(ReadRows { form: self.form, rows, n_cols: self.n_cols, pieces })
    }
}

impl ReadRows {
    /// The rows as a matrix.
    pub fn view(&self) -> WeightView<'_> {
        let pieces = self.pieces.iter().map(|(bytes, row_bytes)| (&bytes[..], *row_bytes));
        assemble(self.form, self.rows.clone(), self.n_cols, pieces)
    }
}

/// Rows of a matrix out of their pieces, each with the bytes from one row to the next.
fn assemble<'a>(
    form: Form,
    rows: Range<usize>,
    n_cols: usize,
    mut pieces: impl Iterator<Item = (&'a [u8], usize)>,
) -> WeightView<'a> {
    let n_rows = rows.len();
    let (codes, code_stride) = pieces.next().unwrap_or_default();
    match form {
        Form::Blocks(dtype) => WeightView::Blocks(MatrixView {
            dtype,
            n_rows,
            n_cols,
            row_stride: code_stride,
            col_start: 0,
            bytes: codes,
        }),
        Form::Affine { bits, group_size, scale_dtype } => {
            let (scales, scale_stride) = pieces.next().unwrap_or_default();
            let biases = pieces.next().map(|(biases, _)| biases);
            WeightView::Affine(AffineView {
                n_rows,
                n_cols,
                bits,
                group_size,
                code_stride,
                codes,
                scale_dtype,
                scale_stride,
                scales,
                biases,
            })
        }
        Form::Fp8 => {
            let (scales, scale_stride) = pieces.next().unwrap_or_default();
            let row_start = rows.start % Fp8View::BLOCK;
            let view = Fp8View { n_rows, n_cols, code_stride, codes, row_start, scale_stride, scales };
            WeightView::Fp8(view)
        }
        Form::Mxfp4 => {
            let (scales, scale_stride) = pieces.next().unwrap_or_default();
            WeightView::Mxfp4(Mxfp4View { n_rows, n_cols, code_stride, codes, scale_stride, scales })
        }
    }
}

impl Checkpoint {
    /// Whether there is such a weight, whatever the tensors are that it consists of. Its name ends with `weight`.
    pub fn has_weight(&self, name: &str) -> bool {
        self.entry(name).is_some() || self.entry(&format!("{name}_packed")).is_some()
    }

    /// A weight whose rows should have `n_cols` values: where codes lie apart from their scales, no tensor says how many bits a
    /// code has. `i` is its place where several are stacked in one tensor `[n, n_rows, n_cols]`.
    pub fn weight(&self, name: &str, n_cols: usize, i: Option<usize>) -> Result<Stored<'_>, WeightsError> {
        let find = Find { checkpoint: self, i };
        let packed = format!("{name}_packed");
        if self.entry(&packed).is_some() {
            return find.packed(name, &packed);
        }
        match self.entry(name).map(|entry| entry.element) {
            Some(Element::Code(Code::U32)) => find.words(name, n_cols),
            Some(Element::Code(Code::F8E4M3)) => find.fp8(name),
            Some(Element::Code(code)) => {
                let expected = "numbers, or codes with scales beside them".to_owned();
                Err(self.contradiction(name, expected, format!("{code:?} without scales")))
            }
            _ => find.numbers(name),
        }
    }
}

/// Looks for a weight's tensors.
struct Find<'a> {
    checkpoint: &'a Checkpoint,
    /// Of a stack, the matrix that is wanted.
    i: Option<usize>,
}

/// A matrix inside a tensor.
struct Matrix<'a> {
    element: Element,
    n_rows: usize,
    n_cols: usize,
    piece: Piece<'a>,
}

impl<'a> Find<'a> {
    /// One tensor of numbers.
    fn numbers(&self, name: &str) -> Result<Stored<'a>, WeightsError> {
        let m = self.matrix(name)?;
        let Element::Number(dtype) = m.element else {
            return Err(self.checkpoint.contradiction(name, "numbers".to_owned(), m.element.to_string()));
        };
        Ok(Stored { form: Form::Blocks(dtype), n_rows: m.n_rows, n_cols: m.n_cols, pieces: vec![m.piece] })
    }

    /// compressed-tensors' `pack-quantized`: words of codes around the middle one, a scale for each group, and the shape.
    fn packed(&self, name: &str, packed: &str) -> Result<Stored<'a>, WeightsError> {
        let (c, scale, shape) = (self.checkpoint, format!("{name}_scale"), format!("{name}_shape"));
        for unknown in ["zero_point", "g_idx"].map(|suffix| format!("{name}_{suffix}")) {
            if c.entry(&unknown).is_some() {
                let expected = "codes around the middle one, in the order of the inputs".to_owned();
                return Err(c.contradiction(packed, expected, format!("{unknown:?} beside them")));
            }
        }
        let [n_rows, n_cols] = c.shape_values(&shape)?;
        let (codes, scales) = (self.matrix(packed)?, self.matrix(&scale)?);
        self.expect(packed, Element::Code(Code::I32), n_rows, &codes)?;
        let form = self.affine(packed, n_cols, &codes, &scale, &scales)?;
        Ok(Stored { form, n_rows, n_cols, pieces: vec![codes.piece, scales.piece] })
    }

    /// 8-bit floats and the scales of their blocks.
    fn fp8(&self, name: &str) -> Result<Stored<'a>, WeightsError> {
        let (codes, scale) = (self.matrix(name)?, format!("{name}_scale_inv"));
        let scales = self.matrix(&scale)?;
        let n_blocks = [codes.n_rows, codes.n_cols].map(|n| n.div_ceil(Fp8View::BLOCK));
        self.expect(&scale, Element::Number(DType::F32), n_blocks[0], &scales)?;
        if scales.n_cols != n_blocks[1] {
            let (expected, found) = (format!("{} columns", n_blocks[1]), scales.n_cols.to_string());
            return Err(self.checkpoint.contradiction(&scale, expected, found));
        }
        let of_blocks = Piece { n_rows_each: Fp8View::BLOCK, ..scales.piece };
        let pieces = vec![codes.piece, of_blocks];
        Ok(Stored { form: Form::Fp8, n_rows: codes.n_rows, n_cols: codes.n_cols, pieces })
    }

    /// MLX's affine form: words of codes, scales and biases; or its MXFP4, which has exponents instead.
    fn words(&self, name: &str, n_cols: usize) -> Result<Stored<'a>, WeightsError> {
        let base = name.strip_suffix(WEIGHT).unwrap_or(name);
        let (scale, bias) = (format!("{base}scales"), format!("{base}biases"));
        let (codes, scales) = (self.matrix(name)?, self.matrix(&scale)?);
        let n_rows = codes.n_rows;
        if scales.element == Element::Code(Code::U8) {
            return self.mxfp4(name, n_cols, codes, &scale, scales);
        }
        let biases = self.matrix(&bias)?;
        let form = self.affine(name, n_cols, &codes, &scale, &scales)?;
        self.expect(&bias, scales.element, n_rows, &biases)?;
        if biases.n_cols != scales.n_cols {
            let (expected, found) = (format!("{} columns", scales.n_cols), biases.n_cols.to_string());
            return Err(self.checkpoint.contradiction(&bias, expected, found));
        }
        Ok(Stored { form, n_rows, n_cols, pieces: vec![codes.piece, scales.piece, biases.piece] })
    }

    /// Two 4-bit floats in a byte, and an exponent for each group.
    fn mxfp4(
        &self,
        name: &str,
        n_cols: usize,
        codes: Matrix<'a>,
        scale_name: &str,
        scales: Matrix<'a>,
    ) -> Result<Stored<'a>, WeightsError> {
        self.expect(scale_name, scales.element, codes.n_rows, &scales)?;
        let found =
            [codes.n_cols.saturating_mul(WORD_BITS / 4), scales.n_cols.saturating_mul(Mxfp4View::GROUP)];
        if found != [n_cols; 2] {
            let expected = format!("rows of {n_cols} values in MXFP4");
            let found = format!("codes of {} and exponents of {}", found[0], found[1]);
            return Err(self.checkpoint.contradiction(name, expected, found));
        }
        let pieces = vec![codes.piece, scales.piece];
        Ok(Stored { form: Form::Mxfp4, n_rows: codes.n_rows, n_cols, pieces })
    }

    /// Bits and groups that the widths of codes and scales leave for rows of `n_cols` values.
    fn affine(
        &self,
        name: &str,
        n_cols: usize,
        codes: &Matrix<'_>,
        scale_name: &str,
        scales: &Matrix<'_>,
    ) -> Result<Form, WeightsError> {
        let Element::Number(scale_dtype @ (DType::F32 | DType::F16 | DType::BF16)) = scales.element else {
            let expected = "scales in F32, F16 or BF16".to_owned();
            return Err(self.checkpoint.contradiction(scale_name, expected, scales.element.to_string()));
        };
        self.expect(scale_name, scales.element, codes.n_rows, scales)?;
        let n_bits = codes.n_cols.saturating_mul(WORD_BITS);
        let bits = [4, 5, 6, 8].into_iter().find(|bits| n_cols.checked_mul(*bits) == Some(n_bits));
        let group_size =
            [32, 64, 128].into_iter().find(|group| scales.n_cols.checked_mul(*group) == Some(n_cols));
        let Some((bits, group_size)) = bits.zip(group_size) else {
            let expected = format!("rows of {n_cols} codes of 4, 5, 6 or 8 bits in groups of 32, 64 or 128");
            let found = format!("{} words and {} scales", codes.n_cols, scales.n_cols);
            return Err(self.checkpoint.contradiction(name, expected, found));
        };
        Ok(Form::Affine { bits: bits as u32, group_size, scale_dtype })
    }

    fn expect(
        &self,
        name: &str,
        element: Element,
        n_rows: usize,
        found: &Matrix<'_>,
    ) -> Result<(), WeightsError> {
        if (element, n_rows) == (found.element, found.n_rows) {
            return Ok(());
        }
        let text = |element: Element, n_rows| format!("{n_rows} rows of {element}");
        let (expected, found) = (text(element, n_rows), text(found.element, found.n_rows));
        Err(self.checkpoint.contradiction(name, expected, found))
    }

    /// The matrix that a tensor is, or that it has at the place looked for.
    fn matrix(&self, name: &str) -> Result<Matrix<'a>, WeightsError> {
        let entry = self.checkpoint.entry(name).ok_or_else(|| self.checkpoint.missing(name))?;
        let (n, n_rows, n_cols, i) = match (&entry.shape[..], self.i) {
            (&[n_rows, n_cols], None) => (1, n_rows, n_cols, 0),
            (&[n, n_rows, n_cols], Some(i)) if i < n => (n, n_rows, n_cols, i),
            _ => {
                let expected = match self.i {
                    None => "a matrix".to_owned(),
                    Some(i) => format!("a stack of more than {i} matrices"),
                };
                return Err(self.checkpoint.contradiction(name, expected, entry.to_string()));
            }
        };
        // that the bytes are those of the shape was checked when the file was opened
        let row_bytes = (entry.bytes.len() / n.max(1)).checked_div(n_rows).unwrap_or(0);
        let piece = Piece {
            file: self.checkpoint.file(entry),
            start: entry.bytes.start + i * n_rows * row_bytes,
            row_bytes,
            n_rows_each: 1,
        };
        Ok(Matrix { element: entry.element, n_rows, n_cols, piece })
    }
}

impl Checkpoint {
    /// The two numbers of a tensor that holds a shape.
    fn shape_values(&self, name: &str) -> Result<[usize; 2], WeightsError> {
        let entry = self.entry(name).ok_or_else(|| self.missing(name))?;
        let wrong =
            |entry: &Entry| self.contradiction(name, "2 sizes in I32 or I64".to_owned(), entry.to_string());
        let bytes = self.bytes(entry);
        let values: Vec<Option<usize>> = match (entry.element, &entry.shape[..]) {
            (Element::Code(Code::I32), [2]) => {
                bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).try_into().ok()).collect()
            }
            (Element::Code(Code::I64), [2]) => {
                bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b).try_into().ok()).collect()
            }
            _ => return Err(wrong(entry)),
        };
        match values[..] {
            [Some(n_rows), Some(n_cols)] => Ok([n_rows, n_cols]),
            _ => Err(wrong(entry)),
        }
    }

    /// Tensors that do not fit each other, or what they are for.
    fn contradiction(&self, name: &str, expected: String, found: String) -> WeightsError {
        WeightsError::Stored { path: self.path().to_owned(), tensor: name.to_owned(), expected, found }
    }
}
