//! What the compiler is asked for besides sources.

/// Lies outside this package.
pub const WORDS: &str = include_str!("../../shared/words.txt");
pub const BYTES: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/words.txt"));
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
pub const SET: Option<&str> = option_env!("CALLS_SET");
pub const EMPTY: Option<&str> = option_env!("CALLS_EMPTY");
pub const UNSET: Option<&str> = option_env!("CALLS_UNSET");

/// Compiled where it is used.
pub fn largest<T: PartialOrd + Copy>(values: &[T]) -> Option<T> {
    let mut values = values.iter().copied();
    let first = values.next()?;
    Some(values.fold(first, |one, other| if other > one { other } else { one }))
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_there() {
        assert_eq!(super::WORDS.as_bytes(), super::BYTES);
    }
}
