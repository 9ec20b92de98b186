import assert from "node:assert/strict";
import { test } from "node:test";
import { outage, tell, word } from "../../../functions/dashboard/page/health.js";

/** @param {Partial<import("../../../functions/dashboard/page/api.js").Health>} health */
const overview = (health) => ({
  now: "2026-01-01T00:00:00Z", streams: [], stages: [], hosts: [],
  health: { state: /** @type {const} */ ("healthy"), sentence: "All is well.", since: null, command: null, findings: [], ...health },
});
const failed = (/** @type {string} */ kind, status = 0, message = "") => ({ kind, status, message });

test("nothing is claimed before the first answer", () => {
  const told = tell(null, null, null);
  assert.equal(told.state, "unknown");
  assert.equal(told.command, null);
  assert.equal(told.stale, false);
});

test("a problem's detail is the sentence", () => {
  const told = outage(failed("problem", 503, "PostgreSQL gives no answer."), 5);
  assert.deepEqual([told.state, told.sentence, told.command, told.since, told.stale], ["failing", "PostgreSQL gives no answer.", "exagg status", 5, true]);
});

test("a time-out is the database's", () => {
  const told = outage(failed("timeout"), 5);
  assert.deepEqual([told.state, told.sentence, told.command], ["failing", "The database does not answer: the dashboard has waited 2.5 s.", "exagg status"]);
});

test("without a connection nothing is known of the pipeline", () => {
  const told = outage(failed("offline"), 5);
  assert.deepEqual([told.state, told.sentence, told.command], ["unknown", "The dashboard's host does not answer.", "exagg up"]);
});

test("an outage comes before what the last answer said, which is kept", () => {
  const finding = { severity: /** @type {const} */ ("warning"), cause: "lag", text: "It is behind.", since: null, command: null };
  const told = tell(overview({ findings: [finding] }), failed("offline"), 7);
  assert.deepEqual([told.since, told.stale, told.others], [7, true, [finding]]);
});

test("the first finding is the sentence, and not said twice", () => {
  const one = { severity: /** @type {const} */ ("error"), cause: "stopped", text: "It stopped.", since: "2026-01-01T00:00:00Z", command: "exagg status" };
  const two = { ...one, cause: "other", text: "Another." };
  const told = tell(overview({ state: "failing", sentence: one.text, since: one.since, command: one.command, findings: [one, two] }), null, null);
  assert.deepEqual([told.state, told.sentence, told.since, told.command, told.others, told.stale],
    ["failing", "It stopped.", Date.parse("2026-01-01T00:00:00Z"), "exagg status", [two], false]);
  assert.deepEqual(tell(overview({ findings: [two] }), null, null).others, [two]);
});

test("each state has a word", () => {
  assert.deepEqual(/** @type {const} */ (["healthy", "degraded", "failing", "unknown"]).map(word), ["Healthy", "Degraded", "Failing", "Unknown"]);
});
