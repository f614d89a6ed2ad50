//! The header of one safetensors file. The `safetensors` crate reads and checks it; this file compares its length
//! with the file's before, and finds out which tensor is to blame when the crate refuses.

use base::DType;
use safetensors::{Dtype as FileDType, SafeTensors};
use serde_json::Value;

use crate::{
    WeightsError,
    map::Mapped,
    tensor::{Code, Element, Located},
};

/// The header's own length, in front of it.
const LEN_BYTES: usize = 8;
/// Longest header the `safetensors` crate reads.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Every tensor of a file with the bytes of the file that hold its values.
pub(super) fn read(map: &Mapped) -> Result<Vec<Located>, WeightsError> {
    let header = header_bytes(map)?;
    let values_at = LEN_BYTES + header.len();
    let (_, parsed) =
        SafeTensors::read_metadata(map.bytes()).map_err(|e| blame(map, header, &e.to_string()))?;
    let mut tensors = Vec::new();
    for name in parsed.offset_keys() {
        let Some(info) = parsed.info(&name) else { continue };
        let (start, end) = info.data_offsets;
        let element = match info.dtype {
            FileDType::F32 => Element::Number(DType::F32),
            FileDType::F16 => Element::Number(DType::F16),
            FileDType::BF16 => Element::Number(DType::BF16),
            FileDType::U8 => Element::Code(Code::U8),
            FileDType::I32 => Element::Code(Code::I32),
            FileDType::U32 => Element::Code(Code::U32),
            FileDType::I64 => Element::Code(Code::I64),
            FileDType::F8_E4M3 => Element::Code(Code::F8E4M3),
            other => {
                return Err(WeightsError::UnknownDType {
                    path: map.path().to_owned(),
                    offset: (values_at + start) as u64,
                    tensor: name,
                    found: format!("{other:?}"),
                });
            }
        };
        let bytes = values_at + start..values_at + end; // the crate checked that these lie in the file
        tensors.push(Located { name, element, shape: info.shape.clone(), bytes });
    }
    Ok(tensors)
}

fn malformed(map: &Mapped, offset: usize, what: String, expected: String, found: String) -> WeightsError {
    WeightsError::Malformed { path: map.path().to_owned(), offset: offset as u64, what, expected, found }
}

fn header_bytes(map: &Mapped) -> Result<&[u8], WeightsError> {
    let file_len = map.bytes().len();
    let Some((len, rest)) = map.bytes().split_first_chunk::<LEN_BYTES>() else {
        let found = format!("a file of {file_len} bytes");
        return Err(malformed(map, 0, "header length".into(), format!("{LEN_BYTES} bytes"), found));
    };
    let len = u64::from_le_bytes(*len);
    let most = (rest.len() as u64).min(MAX_HEADER_BYTES);
    if len > most {
        let expected = format!("at most {most} in a file of {file_len} bytes");
        return Err(malformed(map, 0, "header length".into(), expected, len.to_string()));
    }
    Ok(&rest[..len as usize])
}

/// The crate's refusal, made to name the first tensor that does not fit the file, if there is one.
fn blame(map: &Mapped, header: &[u8], reason: &str) -> WeightsError {
    let values_at = LEN_BYTES + header.len();
    let n_value_bytes = (map.bytes().len() - values_at) as u64;
    let header: Value = serde_json::from_slice(header).unwrap_or_default();
    for (name, tensor) in header.as_object().into_iter().flatten().filter(|(name, _)| *name != "__metadata__")
    {
        let offset = |i| tensor["data_offsets"][i].as_u64();
        let (Some(start), Some(end)) = (offset(0), offset(1)) else {
            let found = tensor.to_string();
            return malformed(map, LEN_BYTES, format!("tensor {name:?}"), "two data_offsets".into(), found);
        };
        if start > end || end > n_value_bytes {
            let expected = format!("values inside the {n_value_bytes} bytes after the header");
            let found = format!("bytes {start} to {end} of them ({reason})");
            return malformed(map, values_at, format!("tensor {name:?}"), expected, found);
        }
    }
    malformed(
        map,
        LEN_BYTES,
        "header".into(),
        "a safetensors header that covers the file".into(),
        reason.to_owned(),
    )
}
