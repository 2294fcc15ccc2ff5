//! Hands on what the native library's build script said.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let answer = std::env::var("DEP_CALLS_NATIVE_ANSWER").expect("from native-sys");
    println!("cargo::rustc-env=APP_ANSWER={answer}");
}
