//! A fuzzer's bytes, taken from the front: zeros and nothing behind the end.

#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    /// At most so many bytes.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// Nothing, or as many bytes as the byte before them says.
    pub fn optional(&mut self) -> Option<&'a [u8]> {
        let length = self.byte();
        (length != u8::MAX).then(|| self.bytes(usize::from(length)))
    }

    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}
