//! Reads the header of a GGUF file: metadata, and where each tensor lies. Nothing here trusts a number of the file
//! before it is compared with the file's size; tensor values are not touched.

use std::sync::Arc;

use super::{DEFAULT_ALIGNMENT, GgufMetadata, cursor::Cursor, dtype_from_code, metadata::key_label};
use crate::{
    TensorInfo, WeightsError,
    map::Mapped,
    tensor::{Element, Located},
};

/// First bytes of every GGUF file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// Bytes of the shortest metadata entry: a name's length, a type, one byte of value.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;
/// Bytes of the shortest tensor description: a name's length, one dimension, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;
const MAX_DIMS: u32 = 4;

/// A file's header.
pub(crate) struct Parsed {
    pub(crate) metadata: GgufMetadata,
    /// Tensors in the file's order, with the bytes of the file that hold their values.
    pub(crate) tensors: Vec<Located>,
}

/// Reads and checks a whole header.
pub(crate) fn read(map: &Arc<Mapped>) -> Result<Parsed, WeightsError> {
    let mut cursor = Cursor { path: map.path(), bytes: map.bytes(), at: 0 };
    check_version(&mut cursor)?;
    let n_tensors = cursor.count(MIN_TENSOR_BYTES, "number of tensors")?;
    let n_entries = cursor.count(MIN_ENTRY_BYTES, "number of metadata keys")?;
    let metadata = read_metadata(&mut cursor, n_entries, map)?;
    let mut described = Vec::new();
    for i in 0..n_tensors {
        described.push(read_tensor(&mut cursor, i)?);
    }
    let alignment = alignment(&metadata, &cursor)?;
    let tensors = locate(&cursor, described, alignment)?;
    Ok(Parsed { metadata, tensors })
}

fn check_version(cursor: &mut Cursor<'_>) -> Result<(), WeightsError> {
    let start = cursor.clone();
    let magic: [u8; 4] = cursor.array("magic")?;
    if magic != MAGIC {
        return Err(start.malformed("magic", "\"GGUF\"", format!("{:?}", magic.escape_ascii().to_string())));
    }
    let start = cursor.clone();
    let version = cursor.u32("version")?;
    match (version, version.swap_bytes()) {
        (2 | 3, _) => Ok(()),
        (_, 2 | 3) => Err(start.malformed("version", "a little-endian file", "a big-endian one")),
        _ => Err(start.malformed("version", "2 or 3", version)),
    }
}

fn read_metadata(
    cursor: &mut Cursor<'_>,
    n_entries: u64,
    map: &Arc<Mapped>,
) -> Result<GgufMetadata, WeightsError> {
    let mut metadata = GgufMetadata::new(Arc::clone(map));
    for i in 0..n_entries {
        let start = cursor.clone();
        let key = cursor.name(&format!("name of metadata key {i} of {n_entries}"))?;
        let label = key_label(key);
        let kind = cursor.kind(&label)?;
        if !metadata.add(key, kind, cursor.at) {
            return Err(start.malformed(&label, "keys that differ", "the key a second time"));
        }
        cursor.skip_value(kind, &label)?;
    }
    Ok(metadata)
}

/// A tensor as described, and where its description and its values are.
struct Described {
    info: TensorInfo,
    described_at: usize,
    /// Counted from the start of all values.
    offset: u64,
}

fn read_tensor(cursor: &mut Cursor<'_>, i: u64) -> Result<Described, WeightsError> {
    let described_at = cursor.at;
    let name = cursor.name(&format!("name of tensor {i}"))?;
    let label = format!("tensor {name:?}");
    let start = cursor.clone();
    let n_dims = cursor.u32(&label)?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        return Err(start.malformed(&label, format!("1 to {MAX_DIMS} dimensions"), n_dims));
    }
    let mut shape = Vec::new();
    for _ in 0..n_dims {
        let start = cursor.clone();
        let dim = cursor.u64(&label)?;
        let usable = usize::try_from(dim).ok().filter(|dim| *dim > 0);
        shape.push(usable.ok_or_else(|| start.malformed(&label, "a dimension of at least 1", dim))?);
    }
    shape.reverse(); // the file has the innermost first
    let start = cursor.clone();
    let dtype = dtype_from_code(cursor.u32(&label)?).map_err(|found| WeightsError::UnknownDType {
        path: start.path.to_owned(),
        offset: start.at as u64,
        tensor: name.to_owned(),
        found,
    })?;
    let offset = cursor.u64(&label)?;
    Ok(Described { info: TensorInfo { name: name.to_owned(), dtype, shape }, described_at, offset })
}

fn alignment(metadata: &GgufMetadata, cursor: &Cursor<'_>) -> Result<u64, WeightsError> {
    const KEY: &str = "general.alignment";
    let alignment = metadata.optional(KEY, GgufMetadata::u32)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() {
        return Err(cursor.malformed(&key_label(KEY), "a power of two", alignment));
    }
    Ok(u64::from(alignment))
}

/// Turns offsets into ranges of the file; `cursor` stands behind the last description.
fn locate(
    cursor: &Cursor<'_>,
    described: Vec<Described>,
    alignment: u64,
) -> Result<Vec<Located>, WeightsError> {
    let values_at = (cursor.at as u64).next_multiple_of(alignment);
    let file_len = cursor.bytes.len() as u64;
    let mut located = Vec::new();
    for Described { info, described_at, offset } in described {
        let here = Cursor { at: described_at, ..cursor.clone() };
        let label = format!("tensor {:?}", info.name);
        let (dtype, shape) = (info.dtype, &info.shape);
        let n_bytes = info.n_bytes().ok_or_else(|| {
            let expected =
                format!("rows of whole {}-value blocks and a size that can be addressed", dtype.block_len());
            here.malformed(&label, expected, format!("{dtype} of shape {shape:?}"))
        })?;
        if !offset.is_multiple_of(alignment) {
            return Err(here.malformed(
                &label,
                format!("an offset that is a multiple of {alignment}"),
                offset,
            ));
        }
        let start = values_at.checked_add(offset);
        let range = start.and_then(|start| Some((start, start.checked_add(n_bytes as u64)?)));
        let (start, end) = range.filter(|(_, end)| *end <= file_len).ok_or_else(|| {
            let start = start.map_or("a position past any file".to_owned(), |start| format!("byte {start}"));
            let expected = format!("its {n_bytes} bytes ({dtype} of shape {shape:?}) from {start} on");
            here.malformed(&label, expected, format!("a file of {file_len} bytes"))
        })?;
        let TensorInfo { name, dtype, shape } = info;
        let bytes = start as usize..end as usize; // both at most the length of a slice
        located.push(Located { name, element: Element::Number(dtype), shape, bytes });
    }
    Ok(located)
}
