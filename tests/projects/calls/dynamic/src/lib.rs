//! Linked at run time.

use std::fmt::Write;

pub fn loud(words: &[&str]) -> String {
    let mut text = String::new();
    for word in words {
        write!(text, "{}!", word.to_uppercase()).expect("memory");
    }
    text + plain::VERSION
}
