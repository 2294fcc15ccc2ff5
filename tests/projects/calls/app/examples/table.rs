//! Shows the table.

fn main() {
    println!("{:?}", generated::table::SQUARES);
}
