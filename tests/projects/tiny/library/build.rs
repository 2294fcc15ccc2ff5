//! Writes a table into OUT_DIR, sets a variable and a cfg.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(generated)");
    println!("cargo::rustc-cfg=generated");
    println!("cargo::rustc-env=LIBRARY_SQUARES=8");
    let squares: Vec<u32> = (0..8).map(|number| number * number).collect();
    let path = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("squares.rs");
    fs::write(path, format!("pub static SQUARES: [u32; 8] = {squares:?};\n")).expect("writable");
}
