//! Says what the dylib says.

fn main() {
    println!("{}", dynamic::loud(&["one", "two"]));
}
