//! Tells the program where to look for MLX when it starts: beside itself, as a release has it, then in the wheel that it
//! was built against. Without the feature `mlx` there is nothing to tell.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=MLX_DIR");
    if env::var_os("CARGO_FEATURE_MLX").is_none() {
        return;
    }
    let is_mac = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "macos");
    let own_folder = if is_mac { "@executable_path" } else { "$ORIGIN" };
    println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{own_folder}");
    if let Some(wheel) = env::var_os("MLX_DIR") {
        let library = PathBuf::from(wheel).join("mlx/lib");
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{}", library.display());
    }
}
