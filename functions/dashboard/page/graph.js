// The picture of the pipeline, as boxes and lines with positions. Nothing here touches the page.
import { clip, count, duration, rate, short } from "./format.js";

/** @typedef {import("./api.js").Stage} Stage */
/** @typedef {import("./api.js").Stream} Stream */
/** @typedef {{id: string, kind: string, title: string, full: string, lines: {text: string, mark?: string}[],
 *   classes: string[], x: number, y: number, width: number, height: number}} Box */
/** @typedef {{id: string, kind: string, path: string, labels: {text: string, mark?: string}[], x: number, y: number, pressed: boolean}} Line */

const WIDTHS = { cron: 104, fetcher: 180, topic: 144, aggregator: 180, windows: 104, rows: 104, end: 144 };
const GAP = { cron: 78, fetcher: 66, topic: 92, aggregator: 78, windows: 66, rows: 40, end: 0 };
const TITLE = 24;
const LINE = 16;
const SPACE = 22;

/** @typedef {keyof typeof WIDTHS} Column */
const columns = /** @type {Column[]} */ (Object.keys(WIDTHS));
/** @type {Record<Column, number>} */
const X = /** @type {any} */ ({});
let right = 1;
for (const column of columns) {
  X[column] = right;
  right += WIDTHS[column] + GAP[column];
}
const WIDTH = right + 1;

/** From which seconds behind a line counts as pressed. */
export const PRESSED_SECONDS = 10;

/** @param {Stage} stage */
const closes = (stage) => stage.closes;

/**
 * Which cron stages feed a stream: those that say so, else those named after it or its topics.
 * @param {Stage[]} stages @param {Stream} stream
 */
function fetchers(stages, stream) {
  const words = (/** @type {string} */ text) => `-${text.replace(/[^\p{L}\p{N}]+/gu, "-")}-`;
  const names = [...new Set([stream.stream, ...stream.partitions.map((one) => one.topic)])].map(words).filter((name) => name !== "---");
  return stages.filter((stage) => stage.trigger === "cron" && !closes(stage)
    && (stage.stream === null ? names.some((name) => words(stage.id).includes(name)) : stage.stream === stream.stream));
}

/** @param {Stage} stage @param {Column} column @returns {Box} */
function stageBox(stage, column) {
  /** @type {Box["lines"]} */
  const lines = [];
  for (const version of stage.versions.slice(0, 3)) {
    lines.push({ text: `${short(version.digest)} on ${count(version.hosts)} host${version.hosts === 1 ? "" : "s"}` });
    if (version.on_trial) lines.push({ text: "on trial", mark: "trial" });
    if (version.taken_back !== null) lines.push({ text: "taken back", mark: "back" });
  }
  if (stage.versions.length > 3) lines.push({ text: `and ${stage.versions.length - 3} more versions` });
  if (stage.versions.length === 0) lines.push({ text: "runs on no host", mark: "bad" });
  const classes = ["stage"];
  if (stage.not_ready !== null) {
    classes.push("not-ready");
    lines.push({ text: "not ready", mark: "bad" });
  }
  if (stage.failing !== null) {
    classes.push("failing");
    lines.push({ text: "failing", mark: "bad" });
  }
  const why = [stage.id, stage.what, stage.not_ready, stage.failing, ...stage.versions.map((one) => one.taken_back)];
  return box(`stage ${stage.id}`, column, stage.component, lines, classes, why.filter(Boolean).join(" · "));
}

/**
 * @param {string} id @param {Column} column @param {string} title @param {Box["lines"]} lines
 * @param {string[]} classes @param {string} [full] @returns {Box}
 */
function box(id, column, title, lines, classes, full) {
  const width = WIDTHS[column];
  return {
    id, kind: column, title: clip(title, Math.floor((width - 14) / 7.2)), full: full ?? title, classes, width, x: X[column], y: 0,
    lines: lines.map((line) => ({ ...line, text: clip(line.text, Math.floor((width - 14) / 6.2)) })),
    height: TITLE + 6 + LINE * lines.length,
  };
}

/** @param {Box} from @param {Box} to @param {string} kind @param {Line["labels"]} labels @param {boolean} [pressed] @returns {Line} */
function line(from, to, kind, labels, pressed = false) {
  const x1 = from.x + from.width;
  const y1 = from.y + Math.min(20, from.height / 2);
  const x2 = to.x;
  const y2 = to.y + Math.min(20, to.height / 2);
  const middle = (x1 + x2) / 2;
  return {
    id: `${from.id} ${to.id}`, kind, labels, pressed, x: middle, y: Math.max(y1, y2) + 14,
    path: y1 === y2 ? `M${x1} ${y1}H${x2 - 1}` : `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2 - 1} ${y2}`,
  };
}

/** @param {Stage} stage @returns {Line["labels"]} */
const callLabels = (stage) => [
  { text: stage.calls_per_second > 0 ? `${rate(stage.calls_per_second)} calls` : "no calls" },
  ...(stage.errors > 0 ? [{ text: `${count(stage.errors)} error${stage.errors === 1 ? "" : "s"}`, mark: "bad" }] : []),
];

/** Stacks boxes of a column from `top`; gives where they end. @param {Box[]} boxes @param {number} top */
function pile(boxes, top) {
  let y = top;
  for (const one of boxes) {
    one.y = y;
    y += one.height + SPACE;
  }
  return y;
}

/** @param {Stage[]} stages @param {Stream[]} streams */
export function layout(stages, streams) {
  /** @type {Box[]} */
  const boxes = [];
  /** @type {Line[]} */
  const lines = [];
  /** @type {string[]} */
  const story = [];
  /** @type {Set<string>} */
  const used = new Set();
  const ends = stages.filter((stage) => stage.trigger === "http").map((stage) => stageBox(stage, "end"));
  /** @type {Box[]} */
  const rows = [];
  let y = 4;
  for (const stream of streams) {
    const feeding = fetchers(stages, stream);
    const reading = stages.filter((stage) => stage.trigger === "kafka" && stage.stream === stream.stream);
    for (const stage of [...feeding, ...reading]) used.add(stage.id);
    const fetcherBoxes = feeding.map((stage) => stageBox(stage, "fetcher"));
    const crons = feeding.map((stage) => box(`cron ${stage.id}`, "cron", "cron", [{ text: stage.what }], ["trigger"], stage.what));
    /** @type {Map<string, number>} */
    const partitions = new Map();
    for (const { topic } of stream.partitions) partitions.set(topic, (partitions.get(topic) ?? 0) + 1);
    const topics = [...partitions].map(([topic, n]) =>
      box(`topic ${stream.stream} ${topic}`, "topic", topic, [{ text: `topic, ${count(n)} partition${n === 1 ? "" : "s"}` }], ["topic"]));
    if (topics.length === 0) topics.push(box(`topic ${stream.stream}`, "topic", "no topic", [{ text: "no partitions seen" }], ["topic", "idle"]));
    const aggregators = reading.map((stage) => stageBox(stage, "aggregator"));
    const open = box(`windows ${stream.stream}`, "windows", "windows", [{ text: `${count(stream.open_windows)} open` }], ["store"], `${stream.stream}: windows`);
    const row = box(`rows ${stream.stream}`, "rows", "rows", [{ text: stream.stream }], ["store"], `${stream.stream}: rows`);
    rows.push(row);
    const bottom = Math.max(...[fetcherBoxes, topics, aggregators, [open], [row]].map((pillar) => pile(pillar, y)));
    fetcherBoxes.forEach((fetcher, i) => {
      const cron = crons[i];
      const stage = feeding[i];
      if (!cron || !stage) return;
      cron.y = fetcher.y;
      lines.push(line(cron, fetcher, "calls", callLabels(stage)));
      for (const topic of topics) {
        lines.push(line(fetcher, topic, "records", stage.records_per_second > 0 ? [{ text: rate(stage.records_per_second) }] : []));
      }
    });
    const behind = stream.seconds_behind;
    const pressed = behind !== null && behind > PRESSED_SECONDS;
    aggregators.forEach((aggregator, i) => {
      const stage = reading[i];
      topics.forEach((topic, k) => lines.push(line(topic, aggregator, "records", i + k > 0 ? [] : [
        { text: rate(stream.records_per_second) },
        { text: behind === null ? "lag unknown" : `${duration(behind)} behind`, mark: pressed ? "bad" : "" },
        ...(stream.lag_records > 0 ? [{ text: `${count(stream.lag_records)} waiting` }] : []),
      ], pressed)));
      if (stage) {
        lines.push(line(aggregator, open, "records", [{ text: rate(stage.records_per_second) },
          ...(stage.errors > 0 ? [{ text: `${count(stage.errors)} error${stage.errors === 1 ? "" : "s"}`, mark: "bad" }] : [])]));
      }
    });
    lines.push(line(open, row, "rows", []));
    boxes.push(...crons, ...fetcherBoxes, ...topics, ...aggregators, open, row);
    story.push(`${stream.stream}: ${feeding.map((one) => one.id).join(", ") || "no fetcher"} to ${[...partitions.keys()].join(", ") || "no topic"}`
      + ` to ${reading.map((one) => one.id).join(", ") || "no aggregator"}, ${rate(stream.records_per_second)}, `
      + `${behind === null ? "lag unknown" : `${duration(behind)} behind`}${pressed ? " (pressed)" : ""}, ${count(stream.open_windows)} open windows.`);
    y = bottom;
  }
  const lanesEnd = y;
  const rest = stages.filter((stage) => stage.trigger !== "http" && !used.has(stage.id));
  const closers = rest.filter(closes).map((stage) => stageBox(stage, "aggregator"));
  for (const closer of closers) closer.x = X.windows;
  let below = lanesEnd;
  closers.forEach((closer) => {
    closer.y = below;
    below += closer.height + SPACE;
    const trunk = X.windows + WIDTHS.windows + GAP.windows / 2;
    const top = rows[0];
    const stage = rest.find((one) => `stage ${one.id}` === closer.id);
    lines.push({ id: closer.id, kind: "folds", pressed: false, labels: stage ? callLabels(stage) : [],
      x: closer.x + closer.width + 44, y: closer.y + 18, path: `M${trunk} ${closer.y}V${top ? top.y + 21 : closer.y}` });
    story.push(`${closer.title} folds windows into rows.`);
  });
  let aside = lanesEnd;
  for (const stage of rest.filter((one) => !closes(one))) {
    const alone = stageBox(stage, stage.trigger === "cron" ? "fetcher" : "aggregator");
    alone.y = aside;
    aside += alone.height + SPACE;
    boxes.push(alone);
    story.push(`${stage.id}, by ${stage.trigger}.`);
  }
  const total = ends.reduce((sum, one) => sum + one.height + SPACE, -SPACE);
  pile(ends, Math.max(4, (lanesEnd - SPACE - total) / 2));
  for (const end of ends) {
    for (const row of rows) lines.push(line(row, end, "rows", []));
    story.push(`${end.title} shows the rows.`);
  }
  boxes.push(...closers, ...ends);
  const lowest = Math.max(60, ...boxes.map((one) => one.y + one.height), ...lines.map((one) => one.y + 12 * one.labels.length));
  return { width: WIDTH, height: lowest + 6, boxes, lines, story: story.join(" ") };
}
