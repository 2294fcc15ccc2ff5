//! Prints the generated table.

fn main() {
    println!("{:?}", library::SQUARES);
}
