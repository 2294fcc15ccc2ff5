//! Writes a perfect hash map and a set of static atoms into OUT_DIR.

use std::{env, fs, path::Path};

const ELEMENTS: &[(&str, &str)] = &[
    ("a", "link"),
    ("h1", "heading"),
    ("p", "paragraph"),
    ("table", "table"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=CODEGEN_ELEMENTS={}", ELEMENTS.len());
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let out = Path::new(&out);

    let mut map = phf_codegen::Map::new();
    for (name, meaning) in ELEMENTS {
        map.entry(*name, format!("{meaning:?}"));
    }
    let code = format!("static MEANING: phf::Map<&'static str, &'static str> = {};\n", map.build());
    fs::write(out.join("meaning.rs"), code).expect("OUT_DIR is writable");

    string_cache_codegen::AtomType::new("words::Word", "word!")
        .atoms(ELEMENTS.iter().map(|(_, meaning)| *meaning))
        .write_to_file(&out.join("words.rs"))
        .expect("OUT_DIR is writable");
}
