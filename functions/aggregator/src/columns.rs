//! Partial aggregates as the statement's parameters. Pure.
//!
//! Spin's interface has arrays of integers and texts, none of floats, and none of arrays: doubles and
//! whole columns travel as PostgreSQL's array literals, which the statement casts.

use std::fmt::Write;

use window::fold::{Edge, Partial, Window};
use window::windows::Windows;

/// A window that gains so many codes from one batch is packed. Below it, rows that are merged in
/// place stay few; above it, a row costs more than what it saves.
pub const PACKED_FROM_CODES: usize = 256;

/// Codes of one packed row. Smaller ones are found faster by their codes, and cost more to write.
pub const BLOCK_CODES: usize = 256;

/// Where the batch comes from: part of the order of first and last.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub topic: &'a str,
    pub partition: i32,
}

/// The partial aggregates of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Columns {
    pub rows: Rows,
    pub packed: Packed,
    /// Unix seconds; none without a window.
    pub earliest_end: Option<i64>,
}

/// One element a window and code, sorted by both.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Unix seconds, as in [`Packed`].
    pub window_ends: Vec<i64>,
    pub window_starts: Vec<i64>,
    pub codes: Vec<String>,
    pub records: Vec<i64>,
    /// Sum, minimum and maximum as a literal of an array.
    pub numbers: Vec<String>,
    pub first_edges: Vec<String>,
    pub last_edges: Vec<String>,
}

/// One element a block of a window's codes; each text is the literal of an array with an element a code, sorted by their
/// bytes, over all blocks of the window.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Packed {
    pub window_ends: Vec<i64>,
    pub window_starts: Vec<i64>,
    pub codes: Vec<String>,
    pub records: Vec<String>,
    pub sum_vols: Vec<String>,
    pub min_vols: Vec<String>,
    pub max_vols: Vec<String>,
    pub first_edges: Vec<String>,
    pub last_edges: Vec<String>,
}

impl Columns {
    /// `folded` is sorted by start, as [`window::fold::Fold::into_windows`] returns it.
    pub fn new(folded: &[Window<'_>], windows: Windows, place: Place<'_>) -> Self {
        let mut columns = Self::default();
        for window in folded {
            let end = windows.end(window.start);
            columns.earliest_end.get_or_insert(end);
            if window.codes.len() < PACKED_FROM_CODES {
                columns.rows.push(window, end, place);
            } else {
                columns.packed.push(window, end, place);
            }
        }
        columns
    }
}

impl Rows {
    fn push(&mut self, window: &Window<'_>, end: i64, place: Place<'_>) {
        for (code, partial) in window.sorted() {
            let texts = Texts::new(partial, place);
            self.window_ends.push(end);
            self.window_starts.push(window.start);
            self.codes.push(code.to_owned());
            self.records.push(partial.records);
            self.numbers.push(format!("{{{},{},{}}}", texts.sum, texts.min, texts.max));
            self.first_edges.push(texts.first);
            self.last_edges.push(texts.last);
        }
    }
}

impl Packed {
    fn push(&mut self, window: &Window<'_>, end: i64, place: Place<'_>) {
        for block in window.sorted().chunks(BLOCK_CODES) {
            self.push_block(block, (window.start, end), place);
        }
    }

    fn push_block(&mut self, block: &[(&str, &Partial)], (start, end): (i64, i64), place: Place<'_>) {
        let mut literals: [Literal; 7] = std::array::from_fn(|_| Literal::default());
        let [codes, records, sums, mins, maxs, firsts, lasts] = &mut literals;
        for (code, partial) in block {
            let texts = Texts::new(partial, place);
            codes.push_quoted(code);
            records.push(&partial.records.to_string());
            sums.push(&texts.sum);
            mins.push(&texts.min);
            maxs.push(&texts.max);
            firsts.push_quoted(&texts.first);
            lasts.push_quoted(&texts.last);
        }
        self.window_ends.push(end);
        self.window_starts.push(start);
        let [codes, records, sums, mins, maxs, firsts, lasts] = literals.map(Literal::close);
        self.codes.push(codes);
        self.records.push(records);
        self.sum_vols.push(sums);
        self.min_vols.push(mins);
        self.max_vols.push(maxs);
        self.first_edges.push(firsts);
        self.last_edges.push(lasts);
    }
}

/// A partial aggregate's numbers as texts that read back as the same doubles.
struct Texts {
    sum: String,
    min: String,
    max: String,
    first: String,
    last: String,
}

impl Texts {
    fn new(partial: &Partial, place: Place<'_>) -> Self {
        let sum = number(partial.sum);
        let first = edge(&partial.first, place);
        if partial.records == 1 {
            return Self { min: sum.clone(), max: sum.clone(), sum, last: first.clone(), first };
        }
        Self { sum, min: number(partial.min), max: number(partial.max), last: edge(&partial.last, place), first }
    }
}

fn number(value: f64) -> String {
    format!("{value:e}")
}

/// An edge as `migrations/0004_edges_and_batches.sql` defines it: such texts, compared as bytes, stand in
/// the order of (event time, topic, partition, offset).
fn edge(edge: &Edge, place: Place<'_>) -> String {
    let mut text = String::with_capacity(64);
    push_sortable(&mut text, edge.time.0);
    text.push(' ');
    text.push_str(place.topic);
    text.push(' ');
    push_sortable(&mut text, place.partition.into());
    text.push(' ');
    push_sortable(&mut text, edge.offset);
    // A String takes what is written to it.
    _ = write!(text, " {:e}", edge.value);
    text
}

/// Hexadecimal, its count of digits before it as a letter; negative numbers as two's complement
/// behind the letter before all others.
fn push_sortable(text: &mut String, number: i64) {
    let bits = number.cast_unsigned();
    let digits = u8::try_from((i64::BITS - bits.leading_zeros()).div_ceil(4).max(1)).unwrap_or(0);
    text.push(if number < 0 { 'a' } else { char::from(b'a' + digits) });
    for digit in (0..digits).rev() {
        text.push(char::from(b"0123456789abcdef"[((bits >> (4 * digit)) & 15) as usize]));
    }
}

/// An array literal under way.
#[derive(Default)]
struct Literal(String);

impl Literal {
    fn separate(&mut self) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
    }

    fn push(&mut self, element: &str) {
        self.separate();
        self.0.push_str(element);
    }

    fn push_quoted(&mut self, element: &str) {
        self.separate();
        self.0.push('"');
        if element.contains(['"', '\\']) {
            for character in element.chars() {
                if matches!(character, '"' | '\\') {
                    self.0.push('\\');
                }
                self.0.push(character);
            }
        } else {
            self.0.push_str(element);
        }
        self.0.push('"');
    }

    fn close(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
mod tests {
    use super::*;
    use window::event::Event;
    use window::fold::Fold;
    use window::time::EventTime;

    const PLACE: Place<'static> = Place { topic: "t", partition: 2 };

    fn sortable(number: i64) -> String {
        let mut text = String::new();
        push_sortable(&mut text, number);
        text
    }

    fn columns(codes: usize) -> Columns {
        let windows = Windows::new(60, 60).unwrap();
        let mut fold = Fold::default();
        for (code, offset) in (0..codes).rev().zip(0..) {
            let event = Event { code: format!("c{code:03}\"").into(), value: code as f64, time: EventTime(1) };
            fold.add(event, offset, windows, |_| true);
        }
        Columns::new(&fold.into_windows(), windows, PLACE)
    }

    #[test]
    fn texts_of_numbers_stand_in_their_order() {
        let numbers = [
            i64::MIN,
            i64::MIN + 1,
            -4_096,
            -1,
            0,
            1,
            9,
            15,
            16,
            255,
            256,
            1_700_000_000_000_000,
            i64::MAX - 1,
            i64::MAX,
        ];
        assert!(numbers.map(sortable).is_sorted(), "{:?}", numbers.map(sortable));
        assert_eq!((sortable(0), sortable(-1)), ("b0".to_owned(), format!("a{}", "f".repeat(16))));
    }

    #[test]
    fn edges_stand_in_the_order_of_time_topic_partition_and_offset() {
        let text = |time, topic, partition, offset| {
            edge(&Edge { time: EventTime(time), offset, value: -1.5 }, Place { topic, partition })
        };
        let edges = [
            text(-1, "z", 9, 9),
            text(5, "a", 9, 9),
            text(5, "a-b", 0, 0),
            text(5, "aa", 0, 0),
            text(5, "aa", 0, 16),
            text(5, "aa", 3, 2),
            text(16, "a", 0, 0),
        ];
        assert!(edges.is_sorted(), "{edges:?}");
        assert_eq!(edges[6], "c10 a b0 b0 -1.5e0");
    }

    #[test]
    fn a_window_of_few_codes_is_rows_in_their_order() {
        let columns = columns(PACKED_FROM_CODES - 1);
        assert_eq!(columns.packed, Packed::default());
        assert_eq!(columns.rows.codes.len(), PACKED_FROM_CODES - 1);
        assert!(columns.rows.codes.is_sorted());
        assert_eq!((columns.earliest_end, columns.rows.numbers[7].as_str()), (Some(60), "{7e0,7e0,7e0}"));
    }

    #[test]
    fn a_window_of_many_codes_is_packed_and_its_texts_are_quoted() {
        let columns = columns(PACKED_FROM_CODES + BLOCK_CODES + 1);
        assert_eq!(columns.rows, Rows::default());
        let packed = columns.packed;
        assert_eq!((packed.window_starts, packed.window_ends), (vec![0; 3], vec![60; 3]));
        assert_eq!(packed.codes[0].matches(r#"\"""#).count(), BLOCK_CODES);
        assert!(packed.codes.iter().flat_map(|codes| codes.trim_matches(['{', '}']).split(',')).is_sorted());
        assert_eq!(packed.codes[2], r#"{"c512\""}"#);
        assert_eq!(packed.records[0].split(',').count(), PACKED_FROM_CODES);
        assert!(packed.first_edges[0].contains(r#""b1 t c2 "#) || packed.first_edges[0].contains(r#""b1 t b2 "#));
    }
}
