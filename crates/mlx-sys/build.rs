//! Compiles the shim against the headers of an unpacked MLX wheel and links its library.

use std::{
    env, fs,
    io::{Error, ErrorKind, Result},
    path::{Path, PathBuf},
};

const SOURCES: [&str; 4] = ["shim/array.cpp", "shim/ops.cpp", "shim/fused.cpp", "shim/callbacks.cpp"];

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=MLX_DIR");
    for file in SOURCES.iter().chain(&["shim/shim.h"]) {
        println!("cargo:rerun-if-changed={file}");
    }
    if env::var_os("CARGO_FEATURE_LINK").is_none() {
        return Ok(());
    }
    let wheel = wheel()?;
    let include = wheel.join("mlx/include");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").include(&include).files(SOURCES).warnings(true).extra_warnings(false);
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "macos") {
        build.include(include.join("metal_cpp"));
    }
    build.flag_if_supported("-Wno-unused-parameter").try_compile("mlx_shim").map_err(Error::other)?;
    let lib = linkable(&wheel)?;
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=mlx");
    println!("cargo:LIB={}", wheel.join("mlx/lib").display()); // for the rpath of binaries
    Ok(())
}

/// The folder into which the wheel was unpacked.
fn wheel() -> Result<PathBuf> {
    let hint = "hint: `cargo xtask mlx --fetch` gets the wheel and prints the folder";
    let dir = env::var_os("MLX_DIR").map(PathBuf::from).ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("MLX_DIR is not set: expected the folder of an unpacked wheel\n{hint}"),
        )
    })?;
    let header = dir.join("mlx/include/mlx/mlx.h");
    if header.is_file() {
        return Ok(dir);
    }
    Err(Error::new(
        ErrorKind::NotFound,
        format!("MLX_DIR: expected {}, found no such file\n{hint}", header.display()),
    ))
}

/// The library seen from inside the build folder, laid out as in the wheel: cargo adds search paths of its own folder to
/// the library path of what it runs, so tests find libmlx without more.
fn linkable(wheel: &Path) -> Result<PathBuf> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| Error::other("OUT_DIR is not set"))?);
    let lib = out.join("mlx/lib");
    fs::create_dir_all(&lib)?;
    for (from, to) in [("mlx/lib", &lib), ("mlx_cpu.libs", &out.join("mlx_cpu.libs"))] {
        let Ok(entries) = fs::read_dir(wheel.join(from)) else { continue };
        fs::create_dir_all(to)?;
        for entry in entries {
            let entry = entry?;
            let link = to.join(entry.file_name());
            let _ = fs::remove_file(&link);
            symlink(&fs::canonicalize(entry.path())?, &link)?;
        }
    }
    Ok(lib)
}

#[cfg(unix)]
fn symlink(from: &Path, to: &Path) -> Result<()> {
    std::os::unix::fs::symlink(from, to)
}
