//! Writes a table and a tree of modules into OUT_DIR.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=make.rs");
    println!("cargo::rustc-check-cfg=cfg(squares)");
    println!("cargo::rustc-cfg=squares");
    println!("cargo::rustc-env=GENERATED_SQUARES=8");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let out = Path::new(&out);
    let squares: Vec<u32> = (0..8).map(|number| number * number).collect();
    fs::write(
        out.join("squares.rs"),
        format!("pub static SQUARES: [u32; 8] = {squares:?};\npub mod below;\n"),
    )
    .expect("writable");
    fs::create_dir_all(out.join("below")).expect("writable");
    fs::write(out.join("below/mod.rs"), "pub const TEXT: &str = include_str!(\"text\");\n")
        .expect("writable");
    fs::write(out.join("below/text"), "from OUT_DIR\n").expect("writable");
}
