//! A small component that keeps a compiler busy for minutes: one function of blocks within which a thousand
//! values are passed on, and each may leave or stay.

/// Values that each block takes and gives: the most that a function type may have.
const VALUES: u32 = 1_000;
const BLOCKS: usize = 3_000;

fn unsigned(mut number: u32, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        out.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return;
        }
    }
}

/// A section, or a function's body: its length and its content, behind its number where it has one.
fn sized(id: Option<u8>, content: &[u8], out: &mut Vec<u8>) {
    out.extend(id);
    unsigned(u32::try_from(content.len()).unwrap(), out);
    out.extend_from_slice(content);
}

fn function() -> Vec<u8> {
    // No locals beside the parameters, which come first.
    let mut body = vec![0];
    for index in 0..VALUES {
        body.push(0x20);
        unsigned(index, &mut body);
    }
    for _ in 0..BLOCKS {
        // block (type 0); local.get 0; i32.wrap_i64; br_if 0; end
        body.extend([0x02, 0, 0x20, 0, 0xa7, 0x0d, 0, 0x0b]);
    }
    body.push(0x0b);
    body
}

fn module() -> Vec<u8> {
    let mut types = vec![1, 0x60];
    for _ in 0..2 {
        unsigned(VALUES, &mut types);
        types.extend(std::iter::repeat_n(0x7e, VALUES as usize));
    }
    let mut code = vec![1];
    sized(None, &function(), &mut code);
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    sized(Some(1), &types, &mut module);
    sized(Some(3), &[1, 0], &mut module);
    sized(Some(10), &code, &mut module);
    module
}

/// The component: a module, and nothing that a trigger could call.
pub fn component() -> Vec<u8> {
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    sized(Some(1), &module(), &mut component);
    component
}
