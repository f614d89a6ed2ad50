//! The GGUF file format, versions 2 and 3, little-endian: a header, typed metadata, tensor descriptions, aligned
//! tensor values. It knows the format's numbers, not what the keys or tensors mean.

mod cursor;
mod metadata;
mod read;
mod split;
mod write;

use base::DType;

pub use metadata::GgufMetadata;
pub(crate) use read::{MAGIC, read};
pub(crate) use split::{SplitName, split_count};
pub use write::{Value, Writer};

/// Values of a file that does not say `general.alignment`.
const DEFAULT_ALIGNMENT: u32 = 32;

/// Type of a metadata value; the discriminant is the format's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::Str,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    fn from_code(code: u32) -> Option<Kind> {
        Kind::ALL.get(code as usize).copied()
    }

    fn code(self) -> u32 {
        self as u32
    }

    /// Bytes of a value; `None` for those that carry their length.
    fn fixed_len(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Str | Kind::Array => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::U8 => "u8",
            Kind::I8 => "i8",
            Kind::U16 => "u16",
            Kind::I16 => "i16",
            Kind::U32 => "u32",
            Kind::I32 => "i32",
            Kind::F32 => "f32",
            Kind::Bool => "bool",
            Kind::Str => "string",
            Kind::Array => "array",
            Kind::U64 => "u64",
            Kind::I64 => "i64",
            Kind::F64 => "f64",
        }
    }
}

/// The format's numbers of the number formats that can be read.
const DTYPE_CODES: [(u32, DType); 13] = [
    (0, DType::F32),
    (1, DType::F16),
    (2, DType::Q4_0),
    (3, DType::Q4_1),
    (6, DType::Q5_0),
    (7, DType::Q5_1),
    (8, DType::Q8_0),
    (10, DType::Q2_K),
    (11, DType::Q3_K),
    (12, DType::Q4_K),
    (13, DType::Q5_K),
    (14, DType::Q6_K),
    (30, DType::BF16),
];

/// Names of number formats that exist and cannot be read, so that the refusal can say which one it is.
const FOREIGN_DTYPES: [(u32, &str); 21] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

fn dtype_from_code(code: u32) -> Result<DType, String> {
    if let Some((_, dtype)) = DTYPE_CODES.iter().find(|(c, _)| *c == code) {
        return Ok(*dtype);
    }
    Err(match FOREIGN_DTYPES.iter().find(|(c, _)| *c == code) {
        Some((_, name)) => format!("{name} (number {code})"),
        None => format!("number {code}"),
    })
}

fn dtype_code(dtype: DType) -> u32 {
    DTYPE_CODES.iter().find(|(_, d)| *d == dtype).map_or(u32::MAX, |(code, _)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_go_both_ways() {
        for dtype in DType::ALL {
            assert_eq!(dtype_from_code(dtype_code(dtype)), Ok(dtype));
        }
        for (code, name) in FOREIGN_DTYPES {
            assert!(dtype_from_code(code).unwrap_err().contains(name));
        }
        for kind in Kind::ALL {
            assert_eq!(Kind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(Kind::from_code(13), None);
    }
}
