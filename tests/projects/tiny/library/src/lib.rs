//! A lib, a cdylib and a staticlib; generated code, an included file, a derive.

use derive::Name;

include!(concat!(env!("OUT_DIR"), "/squares.rs"));

pub mod shapes;

pub const GREETING: &str = include_str!("greeting.txt");

#[derive(Name)]
pub struct Square(pub u32);

#[no_mangle]
pub extern "C" fn library_square(number: u32) -> u32 {
    number * number
}

pub fn squares() -> usize {
    if cfg!(generated) {
        env!("LIBRARY_SQUARES").parse().expect("a number")
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_squares() {
        for (number, square) in SQUARES.iter().enumerate() {
            assert_eq!(library_square(number as u32), *square);
        }
        assert_eq!(SQUARES.len(), squares());
    }
}
