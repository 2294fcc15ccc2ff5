//! Not a benchmark that anybody measures.

fn main() {
    assert_eq!(generated::squares(), 8);
}
