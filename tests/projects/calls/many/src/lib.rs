//! For Rust, for C with a dynamic linker, for C without.

use macros::{count, unchanged, Name};

#[derive(Name)]
pub struct Many(pub u32);

#[no_mangle]
pub extern "C" fn many_tokens() -> u32 {
    count!(one two, three)
}

/// Known by its name.
#[unchanged]
pub fn described(many: &Many) -> String {
    format!("{} {}", Many::NAME, many.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted() {
        assert_eq!(many_tokens(), 4);
    }
}
