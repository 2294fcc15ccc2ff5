//! Starts the program that was built beside it.

use std::process::Command;

#[test]
fn the_program_prints() {
    let output = Command::new(env!("CARGO_BIN_EXE_app")).output().expect("starts");
    assert!(String::from_utf8_lossy(&output.stdout).contains("Many 4"));
    assert!(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).is_dir());
}
