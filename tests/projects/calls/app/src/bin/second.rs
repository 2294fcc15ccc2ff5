//! The other program.

fn main() {
    println!("{} {}", app::all().len(), plain::WORDS.trim());
}
