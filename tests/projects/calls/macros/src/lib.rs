//! Every kind of procedural macro, by hand.

use proc_macro::{TokenStream, TokenTree};

/// The name of the type.
#[proc_macro_derive(Name)]
pub fn name(item: TokenStream) -> TokenStream {
    let mut words = item.into_iter().filter_map(|token| match token {
        TokenTree::Ident(word) => Some(word.to_string()),
        _ => None,
    });
    let name = words
        .by_ref()
        .skip_while(|word| word != "struct")
        .nth(1)
        .expect("a struct");
    format!("impl {name} {{ pub const NAME: &'static str = {name:?}; }}")
        .parse()
        .expect("Rust")
}

/// Leaves a function as it is.
#[proc_macro_attribute]
pub fn unchanged(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    item
}

/// The number of tokens.
#[proc_macro]
pub fn count(tokens: TokenStream) -> TokenStream {
    tokens
        .into_iter()
        .count()
        .to_string()
        .parse()
        .expect("a number")
}
