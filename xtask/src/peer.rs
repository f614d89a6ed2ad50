//! `cargo xtask peer`: gets llama.cpp, which benchmarks and golden files compare with, out of PyPI and builds it for
//! this machine: the Python package, and the server out of the same source. What it is used for is not known here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{python::Python, tidy};

/// The package; its source holds all of llama.cpp.
const PACKAGE: &str = "llama-cpp-python";
const VERSION: &str = "0.3.36";
/// Built here, not fetched built for any machine.
const FROM_SOURCE: [&str; 2] = ["--no-binary", PACKAGE];
/// What our scripts and the build need beside it.
const OTHERS: [&str; 7] = ["gguf", "numpy", "jinja2", "sentencepiece", "tokenizers", "cmake", "ninja"];
/// A server for this machine, without what it would fetch while it is built.
const OPTIONS: [&str; 9] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
];

/// Gets and builds what is missing, and says where it is.
pub(crate) fn run() -> Result<()> {
    let store = store()?;
    fs::create_dir_all(&store)?;
    let python = Python::in_venv(&store.join("venv"))?;
    let package = format!("{PACKAGE}=={VERSION}");
    eprintln!("{package}: installing; its first build takes minutes");
    let install =
        [&["-m", "pip", "install", "--quiet"], &FROM_SOURCE[..], &[package.as_str()], &OTHERS].concat();
    python.call(&install)?;
    if !server()?.exists() {
        eprintln!("llama-server: building, which takes minutes");
        build_server(&store, &python, &package)?;
    }
    println!("{}\n{}", python.program(), server()?.display());
    Ok(())
}

/// Python with the package.
pub(crate) fn python() -> Result<PathBuf> {
    Ok(store()?.join("venv/bin/python"))
}

/// The server.
pub(crate) fn server() -> Result<PathBuf> {
    Ok(store()?.join("build/bin/llama-server"))
}

/// Where all of it is kept.
fn store() -> Result<PathBuf> {
    let metadata = tidy::metadata()?;
    let target = metadata["target_directory"].as_str().context("cargo names no target_directory")?;
    Ok(Path::new(target).join("peer"))
}

/// Unpacks the package's source and builds only the server.
fn build_server(store: &Path, python: &Python, package: &str) -> Result<()> {
    let folder = store.display().to_string();
    let download = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder.as_str()];
    python.call(&[&download, &FROM_SOURCE[..], &[package]].concat())?;
    let name = format!("{}-{VERSION}", PACKAGE.replace('-', "_"));
    let archive = store.join(format!("{name}.tar.gz")).display().to_string();
    python.call(&["-m", "tarfile", "--extract", &archive, &folder])?;

    let (tools, build) = (store.join("venv/bin"), store.join("build"));
    let mut cmake = Command::new(tools.join("cmake"));
    cmake
        .arg("-S")
        .arg(store.join(name).join("vendor/llama.cpp"))
        .arg("-B")
        .arg(&build)
        .args(["-G", "Ninja"]);
    cmake.arg(format!("-DCMAKE_MAKE_PROGRAM={}", tools.join("ninja").display())).args(OPTIONS);
    let mut ninja = Command::new(tools.join("ninja"));
    ninja.arg("-C").arg(&build).arg("llama-server");
    for mut command in [cmake, ninja] {
        let program = command.get_program().display().to_string();
        let output = command.output().with_context(|| format!("cannot start {program}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{program} failed: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
