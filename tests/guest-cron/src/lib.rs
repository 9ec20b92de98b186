//! A cron function that misbehaves at each tick as `BEHAVIOUR` in its environment says: `loop`, `trap`, `allocate`
//! or `flood`.
#![allow(clippy::panic, reason = "misbehaving is this function's job")]

use exagg_sdk::cron::Metadata;

exagg_sdk::cron_function!(handle);

async fn handle(_tick: Metadata) -> Result<(), String> {
    match std::env::var("BEHAVIOUR").as_deref() {
        Ok("loop") => spin(),
        Ok("trap") => panic!("told to trap"),
        Ok("allocate") => allocate(),
        Ok("flood") => (0..100_000).for_each(|number| println!("line {number}")),
        other => return Err(format!("BEHAVIOUR is {other:?}: loop, trap, allocate or flood is wanted")),
    }
    Ok(())
}

fn spin() {
    let mut number = 1u64;
    while std::hint::black_box(number) != 0 {
        number = number.wrapping_mul(3) | 1;
    }
}

fn allocate() {
    let mut held = Vec::new();
    loop {
        held.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
}
