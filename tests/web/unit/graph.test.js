import assert from "node:assert/strict";
import { test } from "node:test";
import { layout } from "../../../functions/dashboard/page/graph.js";

/** @typedef {import("../../../functions/dashboard/page/api.js").Stage} Stage */
/** @typedef {import("../../../functions/dashboard/page/api.js").Stream} Stream */

/** @param {string} id @param {Stage["trigger"]} trigger @param {Partial<Stage>} [of] @returns {Stage} */
const stage = (id, trigger, of) => ({
  id, trigger, component: id, stream: null, what: "x", closes: false, hosts: 1, versions: [{ digest: "0123456789", hosts: 1, on_trial: false, taken_back: null }],
  not_ready: null, failing: null, calls: 1, errors: 0, timeouts: 0, calls_per_second: 1, p50_ms: 1, p99_ms: 1, records: 1, records_per_second: 1,
  dead_letters: 0, cpu_seconds: 1, cpu_us_per_record: 1, memory_bytes: 1, postgres_seconds: 1, cold_starts: 1, refused: 0, ...of,
});
/** @param {string} name @param {Partial<Stream>} [of] @returns {Stream} */
const stream = (name, of) => ({
  stream: name, window_seconds: 60, slide_seconds: 60, allowed_lateness_seconds: 0, late: "revise", watermark: null, watermark_held_by: "", seconds_behind: 1,
  lag_records: 0, records_per_second: 2, seconds_left: null, lag_history: [], open_windows: 3, rejected_records: 0, rejected_last_minutes: 0, gaps: 0,
  partitions: [0, 1].map((partition) => ({ topic: `${name}-topic`, partition, next_offset: 0, end_offset: 0, lag_records: 0, lag_seconds: 0, event_time: null,
    holds_watermark: false, seen_seconds_ago: 0, host: null, state: /** @type {const} */ ("reading"), reason: null })), ...of,
});

test("every stage stands in the picture once, in the lane of its stream", () => {
  const stages = [stage("fetcher-a", "cron"), stage("aggregator-a", "kafka", { stream: "a" }), stage("aggregator-b", "kafka", { stream: "b" }),
    stage("window-closer", "cron", { closes: true }), stage("dashboard", "http"), stage("stray", "cron")];
  const { boxes, lines, story } = layout(stages, [stream("a"), stream("b")]);
  for (const { id } of stages) assert.equal(boxes.filter((box) => box.id === `stage ${id}`).length, 1, id);
  assert.ok(lines.some((line) => line.id === "stage fetcher-a topic a a-topic"));
  assert.ok(lines.some((line) => line.id === "rows b stage dashboard"));
  assert.equal(new Set(boxes.map((box) => box.id)).size, boxes.length);
  assert.equal(new Set(lines.map((line) => line.id)).size, lines.length);
  assert.match(story, /a: fetcher-a to a-topic to aggregator-a, 2\/s, 1 s behind, 3 open windows\./);
  assert.match(story, /window-closer folds windows into rows\./);
});

test("boxes do not overlap and stay within the picture", () => {
  const { boxes, width, height } = layout([stage("aggregator-a", "kafka", { stream: "a", versions: [], failing: "x", not_ready: "y" }), stage("window-closer", "cron", { closes: true }),
    stage("dashboard", "http"), stage("page", "http"), stage("fetcher-1-a", "cron"), stage("fetcher-2-a", "cron")], [stream("a"), stream("b"), stream("c")]);
  for (const a of boxes) {
    assert.ok(a.x >= 0 && a.y >= 0 && a.x + a.width <= width && a.y + a.height <= height, a.id);
    for (const b of boxes) {
      if (a === b) continue;
      assert.ok(a.x + a.width <= b.x || b.x + b.width <= a.x || a.y + a.height <= b.y || b.y + b.height <= a.y, `${a.id} / ${b.id}`);
    }
  }
});

test("a line is pressed beyond 10 s, and marks say what a version is", () => {
  const trial = stage("aggregator-a", "kafka", { stream: "a", versions: [{ digest: "sha256:abcdef0123", hosts: 2, on_trial: true, taken_back: "it trapped" }], failing: "no" });
  const { boxes, lines } = layout([trial], [stream("a", { seconds_behind: 10.5 }), stream("b", { seconds_behind: 10 }), stream("c", { seconds_behind: null })]);
  assert.equal(lines.filter((line) => line.pressed).length, 1);
  const box = boxes.find((one) => one.id === "stage aggregator-a");
  assert.deepEqual(box?.lines.map((line) => line.text), ["abcdef01 on 2 hosts", "on trial", "taken back", "failing"]);
  assert.deepEqual(box?.classes, ["stage", "failing"]);
});

test("nothing is no reason to fail", () => {
  const { boxes, lines } = layout([], []);
  assert.deepEqual([boxes.length, lines.length], [0, 0]);
  assert.ok(layout([stage("window-closer", "cron", { closes: true })], []).height > 0);
  assert.ok(layout([], [stream("a", { partitions: [] })]).boxes.some((box) => box.title === "no topic"));
});
