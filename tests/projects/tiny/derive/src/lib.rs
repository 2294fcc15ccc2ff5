//! `#[derive(Name)]` adds `fn name() -> &'static str`, with nothing but the standard library.

use proc_macro::{TokenStream, TokenTree};

#[proc_macro_derive(Name)]
pub fn name(item: TokenStream) -> TokenStream {
    let mut tokens = item.into_iter();
    while let Some(token) = tokens.next() {
        let is_type = matches!(&token, TokenTree::Ident(word)
            if ["struct", "enum", "union"].contains(&word.to_string().as_str()));
        if !is_type {
            continue;
        }
        if let Some(TokenTree::Ident(name)) = tokens.next() {
            let code = format!(
                "impl {name} {{ pub fn name() -> &'static str {{ {:?} }} }}",
                name.to_string()
            );
            return code.parse().expect("valid Rust");
        }
    }
    panic!("derive(Name) needs a type");
}
