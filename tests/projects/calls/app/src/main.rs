//! Prints it; and is not quite clean, so that something is to be said.

fn main() {
    let unused = plain::VERSION;
    println!("{}", app::all());
    let shout = native_sys::shout(b'x');
    let same = shout;
    println!("{} {}", shout as char, same.clone() as char);
}
