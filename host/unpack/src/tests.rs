#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::io::Write;

use proptest::prelude::*;

use super::record::write_varint;
use super::*;

/// A record as a producer writes it.
#[derive(Clone, Debug, Default)]
struct Record {
    offset: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fn part(out: &mut Vec<u8>, part: Option<&[u8]>) {
    write_varint(out, part.map_or(-1, |part| i64::try_from(part.len()).unwrap()));
    out.extend_from_slice(part.unwrap_or_default());
}

fn write(records: &[Record]) -> Vec<u8> {
    let mut all = Vec::new();
    for record in records {
        let mut body = vec![0];
        write_varint(&mut body, record.offset * 1000);
        write_varint(&mut body, record.offset);
        part(&mut body, record.key.as_deref());
        part(&mut body, record.value.as_deref());
        write_varint(&mut body, i64::try_from(record.headers.len()).unwrap());
        for (name, value) in &record.headers {
            part(&mut body, Some(name));
            part(&mut body, value.as_deref());
        }
        part(&mut all, Some(&body));
    }
    all
}

fn number(bytes: &mut &[u8]) -> i64 {
    let mut varint = record::Varint::default();
    loop {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        if let Some(number) = varint.push(*byte).unwrap() {
            return number;
        }
    }
}

fn read_part(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let length = usize::try_from(number(bytes)).ok()?;
    let (part, rest) = bytes.split_at(length);
    *bytes = rest;
    Some(part.to_vec())
}

/// Records as a reader finds them.
fn read(mut bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let body = read_part(&mut bytes).unwrap();
        let mut body = &body[1..];
        let timestamp = number(&mut body);
        let offset = number(&mut body);
        assert_eq!(timestamp, offset * 1000);
        let (key, value) = (read_part(&mut body), read_part(&mut body));
        let headers = (0..number(&mut body)).map(|_| (read_part(&mut body).unwrap(), read_part(&mut body))).collect();
        assert!(body.is_empty());
        records.push(Record { offset, key, value, headers });
    }
    records
}

fn marker() -> Marker {
    Marker::random()
}

const LIMITS: Limits = Limits {
    record_bytes_max: 100_000,
    batch_bytes_max: 400_000,
    batch_records_max: BATCH_RECORDS_MAX,
    work_bytes_max: u64::MAX,
};

fn good(offset: i64) -> Record {
    Record { offset, key: Some(b"k".to_vec()), value: Some(b"a good one".to_vec()), headers: Vec::new() }
}

fn of_bytes(offset: i64, bytes: usize) -> Record {
    Record { offset, value: Some(vec![b' '; bytes]), ..Record::default() }
}

fn compress(codec: Codec, bytes: &[u8]) -> Vec<u8> {
    match codec {
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Codec::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Codec::Zstd => zstd::stream::encode_all(bytes, 3).unwrap(),
    }
}

const CODECS: [Codec; 3] = [Codec::Gzip, Codec::Lz4, Codec::Zstd];

/// What comes out where nothing is compressed.
fn rewrite(bytes: &[u8], limits: Limits, marker: &Marker, chunk_bytes: usize) -> Result<Vec<u8>, UnpackError> {
    let mut out = Vec::new();
    let mut rewriter = Rewriter::new(limits, marker, &mut out);
    bytes.chunks(chunk_bytes).try_for_each(|chunk| rewriter.push(chunk))?;
    rewriter.finish()?;
    Ok(out)
}

fn cut_of(record: &Record, marker: &Marker) -> Option<Cut> {
    let (name, value) = record.headers.first()?;
    marker.read(&String::from_utf8_lossy(name), value.as_deref())
}

/// A block of snappy that comes to a literal and then so many copies of 64 bytes.
fn snappy_bomb(records: &[Record]) -> Vec<u8> {
    let bytes = write(records);
    let mut block = Vec::new();
    let mut length = bytes.len();
    while length >= 0x80 {
        block.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    block.push(length as u8);
    let mut at = 0;
    while at < bytes.len() {
        let alike = bytes[at..].iter().take(64).take_while(|byte| at > 0 && **byte == bytes[at - 1]).count();
        if alike == 64 {
            block.extend([63 << 2 | 2, 1, 0]);
            at += 64;
        } else {
            block.extend([0, bytes[at]]);
            at += 1;
        }
    }
    block
}

#[test]
fn what_is_within_the_limits_is_not_changed() {
    let records: Vec<_> = (0..2000).map(good).chain([of_bytes(2000, 90_000)]).collect();
    let bytes = write(&records);
    for codec in CODECS {
        let mut out = Vec::new();
        unpack(codec, &compress(codec, &bytes), LIMITS, &marker(), &mut out).unwrap();
        assert_eq!(out, bytes, "{codec:?}");
    }
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(&bytes).unwrap();
    let mut out = Vec::new();
    unpack(Codec::Gzip, &zlib.finish().unwrap(), LIMITS, &marker(), &mut out).unwrap();
    assert_eq!(out, bytes);
}

#[test]
fn a_bomb_is_cut_and_its_neighbours_are_not() {
    const BYTES: usize = 140_000_000;
    let bytes = write(&[good(0), of_bytes(1, BYTES), good(2)]);
    let marker = marker();
    let check = |out: &[u8], what: &str| {
        assert!(out.len() < CUT_VALUE_BYTES + 1000, "{what}: {}", out.len());
        let records = read(out);
        assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1, 2], "{what}");
        assert_eq!(records[0].value, good(0).value, "{what}");
        assert_eq!(records[2].value, good(2).value, "{what}");
        assert_eq!(records[1].value, Some(vec![b' '; CUT_VALUE_BYTES]), "{what}");
        let cut = cut_of(&records[1], &marker).unwrap();
        assert_eq!((cut.key_bytes, cut.value_bytes, cut.because), (None, Some(BYTES as u64), CutBecause::Record));
        assert!(cut.record_bytes > BYTES as u64);
    };
    for codec in CODECS {
        let compressed = compress(codec, &bytes);
        let mut out = Vec::new();
        unpack(codec, &compressed, LIMITS, &marker, &mut out).unwrap();
        check(&out, &format!("{codec:?}"));
        assert!(out.capacity() < 2 * (LIMITS.batch_bytes_max + CHUNK_BYTES));
        let mut again = Vec::new();
        unpack(codec, &compressed, LIMITS, &marker, &mut again).unwrap();
        assert_eq!(out, again, "{codec:?}");
    }
    let block = snappy_bomb(&[good(0), of_bytes(1, BYTES), good(2)]);
    assert_eq!(snappy::unpacked_bytes(&block), Some(bytes.len()));
    let mut out = Vec::new();
    unpack_snappy(std::iter::once(block.as_slice()), LIMITS, &marker, &mut out).unwrap();
    check(&out, "snappy");
    assert!(has_cut());
}

#[test]
fn a_long_key_and_headers_are_cut_as_well() {
    let marker = marker();
    let long = Record { key: Some(vec![b'k'; 200_000]), value: None, ..good(5) };
    let headers = Record { headers: vec![(b"h".to_vec(), Some(vec![1; 200_000]))], ..good(6) };
    let records = read(&rewrite(&write(&[long, headers]), LIMITS, &marker, 777).unwrap());
    assert_eq!((records[0].key.as_ref().unwrap().len(), &records[0].value), (CUT_KEY_BYTES, &None));
    let cut = cut_of(&records[0], &marker).unwrap();
    assert_eq!((cut.key_bytes, cut.value_bytes), (Some(200_000), None));
    assert_eq!((&records[1].key, &records[1].value, records[1].headers.len()), (&good(6).key, &good(6).value, 1));
    assert!(cut_of(&records[1], &marker).unwrap().record_bytes > 200_000);
}

#[test]
fn behind_the_room_of_a_batch_records_keep_their_place() {
    let marker = marker();
    let records: Vec<_> = (0..100).map(|offset| of_bytes(offset, 90_000)).collect();
    let bytes = write(&records);
    let out = rewrite(&bytes, LIMITS, &marker, CHUNK_BYTES).unwrap();
    assert!(out.len() <= LIMITS.batch_bytes_max * 2);
    let found = read(&out);
    assert_eq!(found.iter().map(|record| record.offset).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    for (index, record) in found.iter().enumerate() {
        if index < 4 {
            assert_eq!(record.value, records[index].value);
        } else {
            let cut = cut_of(record, &marker).unwrap();
            assert_eq!((cut.value_bytes, cut.because), (Some(90_000), CutBecause::Batch));
            assert_eq!(record.value.as_ref().unwrap().len(), CUT_IN_BATCH_VALUE_BYTES);
        }
    }
    for chunk_bytes in [1, 7, 65_536, bytes.len()] {
        assert_eq!(rewrite(&bytes, LIMITS, &marker, chunk_bytes).unwrap(), out, "{chunk_bytes}");
    }
}

/// Take out: `is_last` in `Rewriter::begin`.
#[test]
fn of_a_batch_of_too_many_records_one_stands_for_the_rest() {
    let marker = marker();
    let few = Limits { batch_records_max: 10, ..LIMITS };
    let ten = write(&vec![good(0); 10]);
    assert_eq!(rewrite(&ten, few, &marker, CHUNK_BYTES).unwrap(), ten);
    let thousand: Vec<_> = (0..1_000).map(good).collect();
    for chunk_bytes in [1, 7, CHUNK_BYTES] {
        let found = read(&rewrite(&write(&thousand), few, &marker, chunk_bytes).unwrap());
        assert_eq!(found.len(), 11);
        assert!(found[..10].iter().all(|record| cut_of(record, &marker).is_none()));
        assert_eq!((found[10].offset, cut_of(&found[10], &marker).unwrap().because), (10, CutBecause::Rest));
    }
    let endless = write(&vec![good(0); 1_000_000]);
    let limits = Limits { batch_records_max: usize::MAX, ..LIMITS };
    let out = rewrite(&endless, limits, &marker, CHUNK_BYTES).unwrap();
    assert!(out.len() < LIMITS.batch_bytes_max * 2 + 4096, "{}", out.len());
    assert_eq!(cut_of(read(&out).last().unwrap(), &marker).unwrap().because, CutBecause::Rest);
}

/// Take out: `is_enough` in `Rewriter::push`.
#[test]
fn a_batch_costs_so_much_work_and_no_more() {
    let marker = marker();
    let limits = Limits { work_bytes_max: 300_000, ..LIMITS };
    for chunk_bytes in [7, CHUNK_BYTES] {
        let bytes = write(&[good(0), of_bytes(1, 50_000_000), good(2)]);
        let found = read(&rewrite(&bytes, limits, &marker, chunk_bytes).unwrap());
        assert_eq!(found.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1]);
        let cut = cut_of(&found[1], &marker).unwrap();
        assert_eq!((cut.value_bytes, cut.because), (Some(50_000_000), CutBecause::Rest));
    }
    // 34 GB of spaces in a MiB of zstd: what matters is that it ends soon.
    let key = Record { key: Some(vec![b' '; 10_000_000]), ..good(1) };
    let found = read(&rewrite(&write(&[good(0), key, good(2)]), limits, &marker, CHUNK_BYTES).unwrap());
    assert_eq!((found.len(), cut_of(&found[1], &marker).unwrap().because), (2, CutBecause::Rest));
}

#[test]
fn the_window_of_a_zstd_frame_is_read_from_its_head() {
    for level in [1, 3, 19, 22] {
        let packed = zstd::encode_all(&vec![b'x'; 10_000_000][..], level).unwrap();
        let window = super::zstd_window_bytes(&packed).unwrap();
        assert!((1 << 17..=1 << 27).contains(&window), "{level}: {window}");
    }
    // A window of 2^27, by hand: version, no single segment, exponent 17.
    assert_eq!(super::zstd_window_bytes(&[0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3]), Some(1 << 27));
    assert_eq!(super::zstd_window_bytes(&[0x28, 0xb5, 0x2f, 0xfd, 0x20, 7]), Some(7));
    assert_eq!(super::zstd_window_bytes(&[0x28]), None);
}

#[test]
fn a_forged_sign_is_not_believed() {
    let (ours, theirs) = (marker(), marker());
    let cut = Cut { key_bytes: None, value_bytes: Some(5), record_bytes: 9, because: CutBecause::Batch };
    let said = theirs.write(&cut);
    assert_eq!(theirs.read(marker::NAME, Some(said.as_bytes())), Some(cut));
    assert_eq!(ours.read(marker::NAME, Some(said.as_bytes())), None);
    assert_eq!(theirs.read("other", Some(said.as_bytes())), None);
    for forged in ["", "-1:5", ":-1:5:9:batch", &said[..said.len() - 1], &format!("{said}:1")] {
        assert_eq!(theirs.read(marker::NAME, Some(forged.as_bytes())), None, "{forged}");
    }
    assert_eq!(theirs.read(marker::NAME, None), None);
    assert_eq!(marker::read_lengths(b"-1:7"), Some((None, Some(7))));
    assert_eq!(marker::read_lengths(marker::lengths(Some(0), None).as_bytes()), Some((Some(0), None)));
    assert_eq!(marker::read_lengths(b"seven"), None);
}

#[test]
fn what_is_no_records_passes_within_the_limits_only() {
    // An older format begins with an offset of eight bytes.
    let mut old = vec![0; 8];
    old.extend(vec![7; 300_000]);
    assert_eq!(rewrite(&old, LIMITS, &marker(), 1000).unwrap(), old);
    old.extend(vec![7; 300_000]);
    assert!(matches!(rewrite(&old, LIMITS, &marker(), 1000), Err(UnpackError::Malformed(_))));
    // A record that claims to be longer than the stream is.
    let mut claims = write(&[good(0)]);
    write_varint(&mut claims, i64::MAX);
    claims.extend(vec![0; 50_000]);
    assert_eq!(rewrite(&claims, LIMITS, &marker(), 1000).unwrap(), claims);
    claims.extend(vec![0; 100_000]);
    assert!(matches!(rewrite(&claims, LIMITS, &marker(), 1000), Err(UnpackError::Malformed(_))));
}

#[test]
fn broken_streams_end_as_they_do_in_librdkafka() {
    let bytes = write(&[good(0), of_bytes(1, 50_000), good(2)]);
    for codec in CODECS {
        let compressed = compress(codec, &bytes);
        let mut out = Vec::new();
        let broken = unpack(codec, &compressed[..compressed.len() - 6], LIMITS, &marker(), &mut out);
        assert_eq!(broken.is_err(), codec == Codec::Zstd, "{codec:?} {broken:?}");
        let mut longer = compressed;
        longer.extend(b"garbage");
        let mut out = Vec::new();
        let garbage = unpack(codec, &longer, LIMITS, &marker(), &mut out);
        assert_eq!(garbage.is_err(), codec != Codec::Gzip, "{codec:?} {garbage:?}");
    }
}

#[test]
fn snappy_that_cannot_be_right_is_an_error() {
    let mut ignored = |_: &[u8]| Ok(());
    for wrong in [
        &b""[..],
        b"\xff\xff\xff\xff\x0f\x00a",
        b"\x02\x00a",
        b"\x01\x04ab",
        b"\x04\x02\x00\x00",
        b"\x05\x00a\x02\x02\x00",
        b"\x02\x02\x01",
        b"\xff\xff\xff\xff\xff\xff",
    ] {
        assert!(snappy::unpack(wrong, &mut ignored).is_err(), "{wrong:?}");
    }
    let mut out = Vec::new();
    // Three bytes, four of which the last refers to what the copy itself writes, and one more.
    let collect = |bytes: &[u8]| {
        out.extend_from_slice(bytes);
        Ok(())
    };
    snappy::unpack(b"\x08\x08abc\x01\x03\x00d", collect).unwrap();
    assert_eq!(out, b"abcabcad");
    let framed = [&[0, 0, 0, 3][..], b"\x01\x00a", &[0, 0, 0, 3], b"\x01\x00b"].concat();
    assert_eq!(snappy::java_blocks(&framed).collect::<Vec<_>>(), [b"\x01\x00a", b"\x01\x00b"]);
    assert_eq!(snappy::java_blocks(&framed[..12]).last(), Some(&b""[..]));
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let record = (
        prop::option::of(bytes()),
        prop::option::of(bytes()),
        prop::collection::vec((bytes(), prop::option::of(bytes())), 0..3),
    );
    prop::collection::vec(record, 0..40).prop_map(|records| {
        let number = |(offset, (key, value, headers))| Record { offset, key, value, headers };
        (0..).zip(records).map(number).collect()
    })
}

const SMALL: Limits =
    Limits { record_bytes_max: 400, batch_bytes_max: 4000, batch_records_max: 1000, work_bytes_max: u64::MAX };

proptest! {
    #[test]
    fn every_record_is_whole_or_cut_and_has_its_place(records in records(), chunk_bytes in 1..5000_usize) {
        let marker = marker();
        let out = rewrite(&write(&records), SMALL, &marker, chunk_bytes);
        if let Ok(out) = out {
            let found = read(&out);
            let rest = found.last().and_then(|last| cut_of(last, &marker)).filter(|cut| cut.because == CutBecause::Rest);
            prop_assert!(rest.is_some() || found.len() == records.len());
            for (found, sent) in found.iter().zip(&records) {
                prop_assert_eq!(found.offset, sent.offset);
                if let Some(cut) = cut_of(found, &marker) {
                    prop_assert_eq!(cut.value_bytes, sent.value.as_ref().map(|value| value.len() as u64));
                    prop_assert_eq!(cut.key_bytes, sent.key.as_ref().map(|key| key.len() as u64));
                    prop_assert!(sent.value.as_deref().unwrap_or_default().starts_with(found.value.as_deref().unwrap_or_default()));
                    prop_assert_eq!(sent.value.is_some(), found.value.is_some());
                } else {
                    prop_assert_eq!(write(std::slice::from_ref(found)), write(std::slice::from_ref(sent)));
                }
            }
        }
    }

    #[test]
    fn garbage_is_an_answer_and_bounded(bytes in prop::collection::vec(any::<u8>(), 0..20_000), chunk_bytes in 1..5000_usize) {
        if let Ok(out) = rewrite(&bytes, SMALL, &marker(), chunk_bytes) {
            prop_assert!(out.len() <= 2 * SMALL.batch_bytes_max + 2000);
        }
        for codec in CODECS {
            let _ = unpack(codec, &bytes, SMALL, &marker(), &mut Vec::new());
        }
        let _ = unpack_snappy(snappy::java_blocks(&bytes), SMALL, &marker(), &mut Vec::new());
        let _ = unpack_snappy(std::iter::once(bytes.as_slice()), SMALL, &marker(), &mut Vec::new());
    }

    #[test]
    fn flipped_bits_are_an_answer(records in records(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut bytes = write(&records);
        bytes.push(0);
        for codec in CODECS {
            let mut compressed = compress(codec, &bytes);
            let at = at.index(compressed.len());
            compressed[at] ^= 1 << bit;
            let _ = unpack(codec, &compressed, SMALL, &marker(), &mut Vec::new());
        }
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _ = rewrite(&bytes, SMALL, &marker(), 100);
    }
}
