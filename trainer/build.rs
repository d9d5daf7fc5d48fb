//! Tells the linker where this package's binaries find libtorch: what `tch`'s own build script says reaches only the
//! targets of `tch`.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_LIB");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    // Relative to the binary first (`target/release`, `target/release/deps`, an installed `bin`), so that a clone can
    // be moved; then where libtorch was at build time.
    for relative in [
        "../lib",
        "../../.native/libtorch/lib",
        "../../../.native/libtorch/lib",
    ] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/{relative}");
    }
    if let Some(lib) = libtorch_lib() {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
        println!("cargo:rustc-link-search=native={}", lib.display());
    }
    // The linker drops a library that no symbol is taken from; `libtorch.so` is what loads the CUDA kernels where the
    // libtorch found at run time has them.
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    println!("cargo:rustc-link-arg=-ltorch");
}

fn libtorch_lib() -> Option<PathBuf> {
    let of_root = || Some(PathBuf::from(env::var_os("LIBTORCH")?).join("lib"));
    let lib = env::var_os("LIBTORCH_LIB")
        .map(|root| PathBuf::from(root).join("lib"))
        .or_else(of_root)?;
    Some(lib.canonicalize().unwrap_or(lib))
}
