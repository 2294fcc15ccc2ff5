//! Generated code with a module and a text of its own.

pub mod table {
    include!(concat!(env!("OUT_DIR"), "/squares.rs"));
}

pub fn squares() -> usize {
    if cfg!(all(squares, feature = "named")) {
        env!("GENERATED_SQUARES").parse().expect("a number")
    } else {
        0
    }
}
