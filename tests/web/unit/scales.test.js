import assert from "node:assert/strict";
import { test } from "node:test";
import * as scales from "../../../functions/dashboard/page/scales.js";

/** @typedef {import("../../../functions/dashboard/page/api.js").Partition} Partition */
const NOW = Date.parse("2026-01-01T00:00:00Z");
const iso = (/** @type {number} */ seconds) => new Date(NOW + seconds * 1000).toISOString();

/** @param {number} partition @param {Partial<Partition>} [of] @returns {Partition} */
const part = (partition, of) => ({
  topic: "t", partition, next_offset: 0, end_offset: 0, lag_records: 0, lag_seconds: 0, event_time: iso(partition), holds_watermark: false,
  seen_seconds_ago: 0, host: "h", state: "reading", reason: null, ...of,
});

test("a spark line breaks where nothing is known", () => {
  assert.equal(scales.spark([0, 10, null, 5], 30, 12), "M0 11L10 1M30 6h0");
  assert.equal(scales.spark([], 30, 12), "");
  assert.equal(scales.spark([null], 30, 12), "");
  assert.equal(scales.spark([0.1], 30, 12), "M0 10h0");
});

test("the partitions that need it most are shown, stopped ones first", () => {
  const all = Array.from({ length: 300 }, (_, i) => part(i, { lag_seconds: i }));
  all[7] = part(7, { state: "stopped" });
  all[8] = part(8, { holds_watermark: true });
  all[9] = part(9, { state: "unattended", lag_seconds: null });
  const { shown, more } = scales.worst(all, 50);
  assert.equal(more, 250);
  assert.deepEqual(shown.slice(0, 4).map((one) => one.partition), [7, 8, 9, 253]);
  assert.equal(shown.at(-1)?.partition, 299);
  assert.deepEqual(scales.worst([], 50), { shown: [], more: 0 });
});

test("a strip has its zero at the watermark", () => {
  const { columns, zero, width, top } = scales.strip([part(0), part(10), part(1, { event_time: null })], iso(0), { column: 20, height: 100 });
  assert.deepEqual([zero, width, top], [100, 60, 10]);
  assert.deepEqual(columns.map((one) => [one.x, one.y, one.ahead]), [[0, 100, 0], [20, 0, 10], [40, null, null]]);
  assert.deepEqual(scales.strip([part(0)], null, { column: 20, height: 100 }).columns.map((one) => one.y), [null]);
  const behind = scales.strip([part(0, { event_time: iso(-10) }), part(10)], iso(0), { column: 20, height: 100 });
  assert.deepEqual([behind.zero, behind.bottom, behind.columns[0]?.y], [50, -10, 100]);
});

test("windows that overlap get lanes of their own", () => {
  const windows = [0, 30, 60].map((start) => ({
    stream: "s", window_start: iso(start), window_end: iso(start + 60), state: /** @type {const} */ ("final"),
    codes: 1, records: 1, revision: 0, closed_at: null, is_partial: false,
  }));
  const { bars, lanes } = scales.timeline([...windows].reverse(), 120);
  assert.equal(lanes, 2);
  assert.deepEqual(bars.map((bar) => [bar.x, bar.width, bar.lane]), [[0, 59, 0], [30, 59, 1], [60, 59, 0]]);
  assert.deepEqual(scales.timeline([], 120).bars, []);
});

test("ticks are round times", () => {
  assert.deepEqual(scales.ticks(NOW, NOW + 60000, 6).map((at) => (at - NOW) / 1000), [0, 10, 20, 30, 40, 50, 60]);
  assert.ok(scales.ticks(NOW, NOW + 1e12, 6).length <= 7);
});

test("reasons stand on each other, the most frequent lowest", () => {
  const counts = [{ minute: iso(0), reason: "a", records: 1 }, { minute: iso(0), reason: "b", records: 3 }, { minute: iso(-60), reason: "b", records: 2 },
    { minute: iso(-86400), reason: "old", records: 9 }];
  const { bars, reasons, top } = scales.stack(counts, NOW + 5000, { width: 60, height: 40, minutes: 60 });
  assert.equal(top, 4);
  assert.deepEqual(reasons.map((one) => one.reason), ["old", "b", "a"]);
  assert.deepEqual(bars.map((bar) => [bar.column, bar.reason, bar.y, bar.height]), [[59, "b", 10, 30], [59, "a", 0, 10], [58, "b", 20, 20]]);
});

/** @param {string} code @param {[number, number, boolean][]} points */
const series = (code, points) => ({
  stream: "s", code, from: iso(0), to: iso(600), windows_per_point: 1, one_of_windows: 1,
  points: points.map(([seconds, avg, is_final]) => ({ time: iso(seconds), avg, min: avg - 1, max: avg + 1, records: 1, is_final })),
});

test("a line breaks where windows have no records", () => {
  const { x, series: [one] } = scales.align([series("A", [[0, 1, true], [60, 2, true], [240, 3, true]])]);
  assert.deepEqual(x.map((at) => at - NOW / 1000), [0, 60, 120, 240]);
  assert.deepEqual(one?.final, [1, 2, null, 3]);
  assert.deepEqual(one?.max, [2, 3, null, 4]);
  assert.deepEqual(one?.at, [0, 1, -1, 2]);
});

test("the dashed line is joined to the points that are final beside it", () => {
  const { series: [one] } = scales.align([series("A", [[0, 1, true], [60, 2, true], [120, 3, false], [180, 4, true]])]);
  assert.deepEqual(one?.final, [1, 2, null, 4]);
  assert.deepEqual(one?.live, [null, 2, 3, 4]);
});

test("another series' times do not break a line", () => {
  const { x, series: all } = scales.align([series("A", [[0, 1, true], [60, 2, true]]), series("B", [[30, 5, true], [90, 6, false]])]);
  assert.equal(x.length, 4);
  assert.deepEqual(all[0]?.final, [1, undefined, 2, undefined]);
  assert.deepEqual(all[1]?.final, [undefined, 5, undefined, null]);
  assert.deepEqual(all[1]?.live, [undefined, 5, undefined, 6]);
  assert.deepEqual(scales.align([]), { x: [], series: [] });
});
