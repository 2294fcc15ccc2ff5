//! Runs the program that cargo built for this test.

use std::process::Command;

#[test]
fn it_greets_and_squares() {
    let output = Command::new(env!("CARGO_BIN_EXE_app")).output().expect("runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello Square: 25\n");
}
