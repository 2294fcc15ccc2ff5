fn main() {
    assert_eq!(trybuilt::one(), 1);
}
