//! What both programs share.

/// Everything at once, as text.
pub fn all() -> String {
    let answer = format!("{} {}", native_sys::answer(), env!("APP_ANSWER"));
    let described = many::described(&many::Many(many::many_tokens()));
    let largest = plain::largest(&generated::table::SQUARES);
    let variables = [plain::SET, plain::EMPTY, plain::UNSET];
    let text = generated::table::below::TEXT.trim();
    format!("{answer}; {described}; {largest:?}; {variables:?}; {text}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_ways_give_one_answer() {
        assert!(super::all().starts_with("42 42; Many 4; Some(49)"));
    }
}
