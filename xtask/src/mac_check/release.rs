//! What a release for a Mac is: one folder that can be moved, the program beside MLX's libraries and kernels, where its
//! load commands and MLX look for them. It reads files and does not know how they were built.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};

use super::macho::Image;

/// The program's name.
const PROGRAM: &str = "onefold";
/// What of the wheel belongs beside it; MLX looks for its kernels beside its library.
const OF_MLX: [&str; 3] = ["libmlx.dylib", "libjaccl.dylib", "mlx.metallib"];
/// Where the program has to look first: its own folder.
const OWN_FOLDER: &str = "@executable_path";

/// Copies a release together from the built program and the unpacked wheel, then checks it; says what it is.
pub(super) fn lay_out(program: &Path, library: &Path, folder: &Path) -> Result<String> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    place(program, &folder.join(PROGRAM))?;
    for name in OF_MLX {
        place(&library.join("mlx/lib").join(name), &folder.join(name))?;
    }
    check(folder).with_context(|| format!("{}: this is no release that a Mac could start", folder.display()))
}

/// A link costs nothing; between file systems it takes a copy.
fn place(from: &Path, to: &Path) -> Result<()> {
    let linked = fs::hard_link(from, to);
    linked
        .or_else(|_| fs::copy(from, to).map(drop))
        .with_context(|| format!("cannot copy {}", from.display()))
}

/// Whether a Mac would find all that the program loads, with nothing else from us on it.
fn check(folder: &Path) -> Result<String> {
    let program = read(folder, PROGRAM)?;
    ensure!(program.is_program, "{PROGRAM}: expected a program, found a library");
    ensure!(program.is_signed, "{PROGRAM}: expected a signed program, found one that Apple silicon refuses");
    let first = program.search_paths.first().map_or("nowhere", String::as_str);
    ensure!(first == OWN_FOLDER, "{PROGRAM}: expected to look in {OWN_FOLDER} first, found {first}");
    let loads_mlx = program.libraries.iter().any(|name| name.ends_with("/libmlx.dylib"));
    ensure!(loads_mlx, "{PROGRAM}: expected it to load libmlx.dylib, found {:?}", program.libraries);
    for name in &program.libraries {
        let is_ours = name.starts_with("@rpath/") || name.starts_with("/usr/lib/");
        ensure!(is_ours, "{PROGRAM}: expected libraries of the release and /usr/lib, found {name}");
    }
    let loaded = with_what_it_loads(folder, &program)?;
    let kernels = fs::metadata(folder.join(OF_MLX[2]))?.len();
    ensure!(kernels > 0, "{}: expected kernels, found an empty file", OF_MLX[2]);
    let loaded: Vec<String> = loaded.into_iter().collect();
    Ok(format!("{PROGRAM} finds {} and {} beside itself", loaded.join(", "), OF_MLX[2]))
}

/// The names of the libraries in the folder that are loaded, by the program or by one another.
fn with_what_it_loads(folder: &Path, program: &Image) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut open: Vec<String> = program.libraries.clone();
    while let Some(name) = open.pop() {
        let Some(name) = name.strip_prefix("@rpath/") else { continue }; // the system's
        if found.insert(name.to_owned()) {
            let library = read(folder, name)?;
            ensure!(
                library.is_signed,
                "{name}: expected a signed library, found one that Apple silicon refuses"
            );
            open.extend(library.libraries);
        }
    }
    Ok(found)
}

fn read(folder: &Path, name: &str) -> Result<Image> {
    let bytes = fs::read(folder.join(name)).with_context(|| format!("{name} is not in the release"))?;
    Image::read(&bytes).with_context(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::macho::image;
    use super::*;

    const SYSTEM: &str = "/usr/lib/libSystem.B.dylib";
    const MLX: &str = "@rpath/libmlx.dylib";

    /// A folder that goes away with its test.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Lays out a release around a program that loads `libraries` and looks in `search_paths`.
    fn laid_out(test: &str, libraries: &[&str], search_paths: &[&str], kernels: &[u8]) -> Result<String> {
        let folder = Folder(std::env::temp_dir().join(format!("onefold-{test}-{}", std::process::id())));
        let wheel = folder.0.join("mlx/lib");
        fs::create_dir_all(&wheel)?;
        fs::write(folder.0.join("built"), image(2, libraries, search_paths))?;
        fs::write(
            wheel.join(OF_MLX[0]),
            image(6, &["@rpath/libjaccl.dylib", "/usr/lib/libobjc.A.dylib"], &[]),
        )?;
        fs::write(wheel.join(OF_MLX[1]), image(6, &[SYSTEM], &[]))?;
        fs::write(wheel.join(OF_MLX[2]), kernels)?;
        lay_out(&folder.0.join("built"), &folder.0, &folder.0.join("release"))
    }

    #[test]
    fn a_whole_release_is_told() {
        let told = laid_out("whole", &[SYSTEM, MLX], &[OWN_FOLDER, "/build/mlx"], b"MTLB").unwrap();
        assert_eq!(told, "onefold finds libjaccl.dylib, libmlx.dylib and mlx.metallib beside itself");
    }

    #[test]
    fn what_a_mac_could_not_start_is_refused() {
        let refused = |test: &str, libraries: &[&str], search_paths: &[&str], kernels: &[u8], why: &str| {
            let error = format!("{:#}", laid_out(test, libraries, search_paths, kernels).unwrap_err());
            assert!(error.contains(why), "{test}: {error}");
        };
        refused("nowhere", &[SYSTEM, MLX], &[], b"MTLB", "found nowhere");
        refused("elsewhere", &[SYSTEM, MLX], &["/build/mlx", OWN_FOLDER], b"MTLB", "found /build/mlx");
        refused("without", &[SYSTEM], &[OWN_FOLDER], b"MTLB", "to load libmlx.dylib");
        refused(
            "missing",
            &[MLX, "@rpath/libother.dylib"],
            &[OWN_FOLDER],
            b"MTLB",
            "libother.dylib is not in the release",
        );
        let framework = "/System/Library/Frameworks/IOKit.framework/IOKit";
        refused("framework", &[MLX, framework], &[OWN_FOLDER], b"MTLB", framework);
        refused("empty", &[MLX], &[OWN_FOLDER], b"", "empty file");
    }
}
