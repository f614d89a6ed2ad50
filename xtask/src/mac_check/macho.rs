//! As much of a Mach-O file as tells which libraries it loads and where it looks for them: the load commands of a 64-bit
//! image (Apple, `mach-o/loader.h`). It does not know which libraries are wanted.

use anyhow::{Context, Result, ensure};

/// Of a 64-bit image, little-endian.
const MAGIC: u32 = 0xfeed_facf;
const ARM64: u32 = 0x0100_000c;
const EXECUTABLE: u32 = 2;

/// Bytes before the first load command.
const HEADER_BYTES: usize = 32;
/// A load command's number and length, in bytes.
const COMMAND_BYTES: usize = 8;

/// Loads a library; weak, re-exported and upward ones are loads too.
const LOAD_LIBRARY: [u32; 4] = [0xc, 0x8000_0018, 0x8000_001f, 0x8000_0023];
/// Says where the signature is.
const SIGNATURE: u32 = 0x1d;
/// One more folder in which `@rpath` is looked for.
const SEARCH_PATH: u32 = 0x8000_001c;

/// A program or library for Apple silicon.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// Whether it is a program.
    pub(super) is_program: bool,
    /// Whether it is signed, by anybody; Apple silicon starts nothing else.
    pub(super) is_signed: bool,
    /// What it loads, by the names that the linker wrote down.
    pub(super) libraries: Vec<String>,
    /// What `@rpath` stands for, in the order it is tried.
    pub(super) search_paths: Vec<String>,
}

impl Image {
    /// Reads the load commands.
    pub(super) fn read(bytes: &[u8]) -> Result<Image> {
        let (magic, cpu) = (word(bytes, 0)?, word(bytes, 4)?);
        ensure!(magic == MAGIC, "expected a Mach-O image, found magic number {magic:#x}");
        ensure!(cpu == ARM64, "expected an image for arm64, found processor {cpu:#x}");
        let is_program = word(bytes, 12)? == EXECUTABLE;
        let mut image =
            Image { is_program, is_signed: false, libraries: Vec::new(), search_paths: Vec::new() };
        let mut rest = bytes.get(HEADER_BYTES..).context("the header is cut off")?;
        for _ in 0..word(bytes, 16)? {
            let (kind, n_bytes) = (word(rest, 0)?, word(rest, 4)? as usize);
            ensure!(n_bytes >= COMMAND_BYTES, "expected a load command, found one of {n_bytes} bytes");
            let command = rest.get(..n_bytes).context("a load command is cut off")?;
            if LOAD_LIBRARY.contains(&kind) {
                image.libraries.push(string(command)?);
            } else if kind == SEARCH_PATH {
                image.search_paths.push(string(command)?);
            }
            image.is_signed |= kind == SIGNATURE;
            rest = &rest[n_bytes..];
        }
        Ok(image)
    }
}

/// The text whose place in the command follows the command's number and length; zeros fill it up.
fn string(command: &[u8]) -> Result<String> {
    let text =
        command.get(word(command, COMMAND_BYTES)? as usize..).context("a name begins outside its command")?;
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8(text.to_vec())?)
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map(u32::from_le_bytes).context("the file is cut off")
}

/// A signed image that loads `libraries` and looks for them in `search_paths`.
#[cfg(test)]
pub(super) fn image(kind: u32, libraries: &[&str], search_paths: &[&str]) -> Vec<u8> {
    let mut commands = vec![(SIGNATURE, vec![0; 8])];
    for (number, names, before) in [(0xc, libraries, 24_u32), (SEARCH_PATH, search_paths, 12)] {
        for name in names {
            let mut body = before.to_le_bytes().to_vec();
            body.resize(before as usize - COMMAND_BYTES, 0);
            body.extend(name.as_bytes());
            body.resize((body.len() / 8 + 1) * 8, 0);
            commands.push((number, body));
        }
    }
    let mut bytes = Vec::new();
    for word in [MAGIC, ARM64, 0, kind, commands.len() as u32, 0, 0, 0] {
        bytes.extend(u32::to_le_bytes(word));
    }
    for (number, body) in commands {
        bytes.extend(number.to_le_bytes());
        bytes.extend(((body.len() + COMMAND_BYTES) as u32).to_le_bytes());
        bytes.extend(body);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_search_paths_are_read_in_order() {
        let libraries = ["/usr/lib/libSystem.B.dylib", "@rpath/libmlx.dylib"];
        let bytes = image(EXECUTABLE, &libraries, &["@executable_path", "/opt/mlx"]);
        let read = Image::read(&bytes).unwrap();
        assert!(read.is_program && read.is_signed);
        let unsigned = [&bytes[..32], &[0x32], &bytes[33..]].concat(); // another command in its place
        assert!(!Image::read(&unsigned).unwrap().is_signed);
        assert_eq!(read.libraries, libraries);
        assert_eq!(read.search_paths, ["@executable_path", "/opt/mlx"]);
        assert!(!Image::read(&image(6, &[], &[])).unwrap().is_program);
    }

    #[test]
    fn what_is_no_image_or_cut_off_is_an_error() {
        let bytes = image(EXECUTABLE, &["@rpath/libmlx.dylib"], &["@executable_path"]);
        for n_bytes in 0..bytes.len() {
            assert!(Image::read(&bytes[..n_bytes]).is_err(), "{n_bytes} bytes");
        }
        assert!(Image::read(b"\x7fELF and more of it").unwrap_err().to_string().contains("magic"));
        for (at, value) in [(4, 7_u32), (36, 0), (36, 7), (36, u32::MAX), (56, u32::MAX), (56, 4096)] {
            let mut bad = bytes.clone();
            bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(Image::read(&bad).is_err(), "{value} at {at}");
        }
    }
}
