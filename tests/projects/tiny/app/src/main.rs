//! The program on top. It has one warning on purpose: cargo must show it, coloured, every time.

use library::{shapes, Square, GREETING};

fn main() {
    let unused = shapes_known();
    println!("{} {}: {}", GREETING.trim(), Square::name(), Square(5).area());
}

fn shapes_known() -> bool {
    std::any::type_name::<shapes::Known>().contains("shapes")
}
