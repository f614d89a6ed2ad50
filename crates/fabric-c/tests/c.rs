//! The header and the library as a program in C uses them: compiled with `cc`, two processes that talk and sum.

#![allow(clippy::unwrap_used)] // a check fails by panicking

use std::{
    env,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The static library, which lies beside this program.
fn library() -> PathBuf {
    let deps = env::current_exe().unwrap().parent().unwrap().to_owned();
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("libonefold_fabric") && name.ends_with(".a")
    };
    let made = |path: &PathBuf| path.metadata().and_then(|m| m.modified()).unwrap();
    let found = deps.read_dir().unwrap().filter_map(|entry| Some(entry.ok()?.path())).filter(is_it);
    found.max_by_key(made).unwrap_or_else(|| panic!("no libonefold_fabric.a in {}", deps.display()))
}

#[test]
fn two_processes_in_c_talk_and_sum() {
    let (dir, here) = (tempfile::tempdir().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")));
    let program = dir.path().join("two_ranks");
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]).arg(here.join("../../include"));
    cc.arg("-o").arg(&program).arg(here.join("tests/two_ranks.c")).arg(library());
    cc.args(["-lpthread", "-ldl", "-lm"]);
    let compiled = cc.output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));

    let mut listening = Command::new(&program).arg("listen").stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(listening.stdout.take().unwrap());
    let mut port = String::new();
    said.read_line(&mut port).unwrap();
    let calling = Command::new(&program).args(["call", port.trim()]).output().unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(listening.wait().unwrap().success(), "{rest}");
    let words = String::from_utf8_lossy(&calling.stderr);
    assert!(calling.status.success(), "{}: {words}", calling.status);
    assert_eq!((rest.trim(), String::from_utf8_lossy(&calling.stdout).trim()), ("fine", "fine"));
}
