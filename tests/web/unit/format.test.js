import assert from "node:assert/strict";
import { test } from "node:test";
import * as f from "../../../functions/dashboard/page/format.js";

test("durations have two units at the most, and never 60 of one", () => {
  const cases = /** @type {[number | null, string][]} */ ([
    [null, "–"], [NaN, "–"], [0, "0 s"], [0.0004, "1 ms"], [0.05, "50 ms"], [0.25, "0.3 s"], [9.94, "9.9 s"], [9.96, "10 s"],
    [59.4, "59 s"], [59.6, "1 min"], [61, "1 min 1 s"], [3599, "1 h"], [3600, "1 h"], [5400, "1 h 30 min"], [86399, "1 d"],
    [90000, "1 d 1 h"], [-12, "−12 s"],
  ]);
  for (const [seconds, text] of cases) assert.equal(f.duration(seconds), text, String(seconds));
});

test("how long ago", () => {
  assert.deepEqual([-5, 0, 59.9, 60, 3599, 3600, 172799, 172800].map(f.roughly),
    ["0 s", "0 s", "59 s", "1 min", "59 min", "1 h", "47 h", "2 days"]);
});

test("counts, rates, bytes, milliseconds", () => {
  assert.equal(f.count(1234567), "1,234,567");
  assert.equal(f.count(undefined), "–");
  assert.equal(f.atLeast(100000, 100000), "100,000 or more");
  assert.equal(f.atLeast(99999, 100000), "99,999");
  assert.deepEqual([null, 0, 0.001, 0.5, 9.999, 1234.5].map(f.rate), ["–", "0/s", "<0.01/s", "0.5/s", "10/s", "1,235/s"]);
  assert.deepEqual([0, 1023, 1024, 1048576, 5e9].map(f.bytes), ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "4.7 GiB"]);
  assert.deepEqual([null, 0.44, 9.96, 420, 1500].map(f.millis), ["–", "0.4 ms", "10 ms", "420 ms", "1.5 s"]);
});

test("values keep the digits that tell them apart", () => {
  assert.deepEqual([0, 12, 123456.789, 1.23456, 0.00012345, 0.00001234, -2.5, 1e21].map(f.number),
    ["0", "12", "123,456.79", "1.2346", "0.0001235", "1.2340e-5", "-2.5", "1.0000e+21"]);
});

test("times are UTC", () => {
  assert.equal(f.utc("2026-01-02T03:04:05Z"), "2026-01-02 03:04:05");
  assert.equal(f.utc("2026-01-02T03:04:05.25+01:00"), "2026-01-02 02:04:05.250");
  assert.equal(f.utc(null), "–");
  assert.equal(f.utc("nonsense"), "–");
  assert.equal(f.clock("2026-01-02T03:04:05Z"), "03:04:05");
  assert.equal(f.span("2026-01-02T03:04:00Z", "2026-01-02T03:05:00Z"), "2026-01-02 03:04:00 – 03:05:00");
  assert.equal(f.span("2026-01-02T23:59:00Z", "2026-01-03T00:00:00Z"), "2026-01-02 23:59:00 – 2026-01-03 00:00:00");
  assert.equal(f.span(null, undefined), "– – –");
});

test("a field's text is UTC, whatever the browser's zone", () => {
  assert.equal(f.fromField("2026-01-02T03:04"), "2026-01-02T03:04:00Z");
  assert.equal(f.fromField("2026-01-02T03:04:05"), "2026-01-02T03:04:05Z");
  assert.equal(f.fromField("2026-01-02T03:04:05+02:00"), "2026-01-02T01:04:05Z");
  assert.equal(f.fromField(""), "");
  assert.equal(f.fromField("soon"), "");
  assert.equal(f.field("2026-01-02T03:04:05.5Z"), "2026-01-02T03:04:05");
  assert.equal(f.field("soon"), "");
});

test("digests and long text are short", () => {
  assert.equal(f.short("sha256:0123456789abcdef"), "01234567");
  assert.equal(f.short(null), "–");
  assert.equal(f.clip("abcdef", 4), "abc…");
  assert.equal(f.clip("abcd", 4), "abcd");
  assert.equal(f.clip("😀😀😀", 2), "😀…");
});

test("what a row's state is called", () => {
  assert.equal(f.rowState({ is_final: false, revision: null }), "live");
  assert.equal(f.rowState({ is_final: false, revision: 1 }), "live, revision 1");
  assert.equal(f.rowState({ is_final: true, revision: 0 }), "final");
  assert.equal(f.rowState({ is_final: true, revision: 3 }), "final, revision 3");
});
