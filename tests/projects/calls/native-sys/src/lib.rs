//! What C has to say.

extern "C" {
    fn calls_answer() -> i32;
    fn calls_shout(letter: i32) -> i32;
}

pub fn answer() -> i32 {
    unsafe { calls_answer() }
}

pub fn shout(letter: u8) -> u8 {
    unsafe { calls_shout(letter.into()) as u8 }
}
