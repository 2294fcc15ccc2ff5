//! Calls the C compiler as a -sys crate does.

use std::{env, path::Path, process::Command};

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program)
        .args(arguments)
        .status()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} failed");
}

fn main() {
    println!("cargo::rerun-if-changed=native");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let at = |name: &str| {
        let path = Path::new(&out).join(name);
        path.to_str().expect("UTF-8").to_owned()
    };
    run("cc", &["-O1", "-fPIC", "-c", "native/answer.c", "-o", &at("answer.o")]);
    run("ar", &["crsD", &at("libcalls_answer.a"), &at("answer.o")]);
    let soname = "-Wl,-soname,libcalls_shout.so";
    run("cc", &["-O1", "-fPIC", "-shared", soname, "native/shout.c", "-o", &at("libcalls_shout.so")]);
    println!("cargo::rustc-link-search=native={out}");
    println!("cargo::rustc-link-lib=static=calls_answer");
    println!("cargo::rustc-link-lib=dylib=calls_shout");
    println!("cargo::metadata=answer=42");
}
