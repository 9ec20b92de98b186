// The first screen: how far each stream is, the pipeline, its partitions and its hosts.
import { h, num, region, table, td } from "../dom.js";
import { atLeast, clip, count, duration, near, parse, rate, utc } from "../format.js";
import { link } from "../route.js";
import { spark, strip, worst } from "../scales.js";
import { hostsTable } from "./hosts.js";
import { picture } from "./picture.js";

/** @typedef {import("../api.js").Stream} Stream */

const MOST_PARTITIONS = 50;
const SPARK = { width: 120, height: 24 };
const STRIP = { column: 22, height: 72 };

/** @param {Stream} stream */
function sparkLine({ lag_history: history }) {
  const known = history.filter((value) => value !== null);
  return h("svg", { class: "spark", role: "img", viewBox: `0 0 ${SPARK.width} ${SPARK.height}`, width: SPARK.width, height: SPARK.height,
    "aria-label": known.length === 0 ? "No history of the lag"
      : `Seconds behind, over the last ${duration(history.length * 5)}: at most ${duration(Math.max(...known))}` },
  h("path", { d: spark(history, SPARK.width, SPARK.height) }));
}

/** @param {Stream[]} streams @param {number} now */
function streamsTable(streams, now) {
  return table({
    id: "streams", label: "Streams", hideLabel: true, none: "No stream has read a record yet.",
    head: ["Stream", "#Behind", "Last minutes", "Time left", "#Records", "#Rejected in 5 min", "Watermark", "#Open windows", "#Gaps"],
    rows: streams.map((one) => h("tr", { key: one.stream, "data-stream": one.stream },
      h("th", { scope: "row" }, h("a", { href: link("chart", { stream: one.stream }) }, one.stream),
        h("div", { class: "sub" }, `${duration(one.window_seconds)} windows`
          + `${one.slide_seconds === one.window_seconds ? "" : ` every ${duration(one.slide_seconds)}`}, `
          + `${duration(one.allowed_lateness_seconds)} of lateness, then ${one.late === "revise" ? "revised" : "rejected"}`)),
      num([one.seconds_behind === null ? "unknown" : duration(one.seconds_behind), h("div", { class: "sub" }, `${count(one.lag_records)} records`)],
        { class: "behind" }),
      td(sparkLine(one)),
      td(one.seconds_left !== null ? duration(one.seconds_left) : one.lag_records > 0 ? "does not shrink" : "nothing is left"),
      num(rate(one.records_per_second)),
      num([h("a", { href: link("rejects", { stream: one.stream }), "aria-label": `Rejected records of ${one.stream}: ${count(one.rejected_last_minutes)}` },
        atLeast(one.rejected_last_minutes, 10000)),
      h("div", { class: "sub" }, `${atLeast(one.rejected_records, 10000)} in all`)]),
      td([one.watermark === null ? "none yet" : h("span", { class: "nowrap", title: `${utc(one.watermark)} UTC` }, `${near(one.watermark, now)}, ${duration((now - (parse(one.watermark) ?? now)) / 1000)} ago`),
        h("div", { class: "sub" }, one.watermark_held_by)], { class: "watermark" }),
      num(h("a", { href: link("windows", { stream: one.stream }), "aria-label": `Windows of ${one.stream}: ${count(one.open_windows)} open` }, count(one.open_windows))),
      num(atLeast(one.gaps, 1000), { class: one.gaps > 0 ? "bad" : "" }))),
  });
}

/** @param {Stream} stream */
function partitions(stream) {
  const { shown, more } = worst(stream.partitions, MOST_PARTITIONS);
  const { width, top, bottom, zero, columns } = strip(shown, stream.watermark, STRIP);
  const left = 84;
  const name = `Partitions of ${stream.stream}`;
  const holder = shown.find((one) => one.holds_watermark);
  return h("section", { key: stream.stream, "data-stream": stream.stream },
    h("h3", null, stream.stream),
    h("p", null, `The watermark waits for: ${stream.watermark_held_by}.`,
      more > 0 && h("span", { class: "more" }, ` Of ${count(stream.partitions.length)} partitions, the ${shown.length} are shown that need it most; ${count(more)} more are not shown.`)),
    shown.length > 0 && region(`${name}: event time`,
      h("svg", { class: "strip", role: "img", width: left + width + 8, height: STRIP.height + 34,
        viewBox: `${-left} -8 ${left + width + 8} ${STRIP.height + 34}`,
        "aria-label": `Latest event time of each partition, ahead of the watermark by up to ${duration(top)}.`
          + `${holder ? ` Partition ${holder.partition} of ${holder.topic} holds it.` : ""} The table has the values.` },
      h("text", { x: -8, y: 6, class: "axis" }, `+${duration(top)}`),
      h("text", { x: -8, y: zero + 4, class: "axis", key: "zero" }, "watermark"),
      bottom < 0 && zero < STRIP.height - 14 && h("text", { x: -8, y: STRIP.height, class: "axis", key: "bottom" }, duration(bottom)),
      h("line", { x1: -4, x2: width, y1: zero, y2: zero, class: "zero" }),
      columns.map(({ partition, ahead, x, y }) => h("g", { key: `${partition.topic} ${partition.partition}`,
        class: `column ${partition.state}${partition.holds_watermark ? " holder" : ""}`, "data-partition": partition.partition },
      h("title", null, `${partition.topic} ${partition.partition}: ${ahead === null ? "no event time" : `${duration(ahead)} ahead`}, ${partition.state}`
          + `${partition.holds_watermark ? ", holds the watermark" : ""}`),
      y === null ? h("text", { x: x + 9, y: zero - 4 }, "?")
        : h("rect", { x: x + 3, y: Math.min(y, zero) - 1, width: STRIP.column - 8, height: Math.abs(zero - y) + 2 }),
      h("text", { x: x + 10, y: STRIP.height + 14, key: "name" }, String(partition.partition)),
      (partition.holds_watermark || partition.state !== "reading") && h("text", { x: x + 10, y: STRIP.height + 25, key: "mark", class: "mark" },
        partition.holds_watermark ? "▲" : "×"))))),
    shown.length > 0 && h("p", { key: "legend", class: "note" }, "▲ holds the watermark; × is not read now; ? has no event time yet."),
    table({
      label: name, hideLabel: true, none: "None is known yet.",
      head: ["Topic", "#Partition", "State", "#Next offset", "#Lag", "#Behind", "Event time", "Host"],
      rows: shown.map((one) => h("tr", { key: `${one.topic} ${one.partition}`, "data-topic": one.topic, "data-partition": one.partition,
        class: `${one.state}${one.holds_watermark ? " holder" : ""}` },
      td(clip(one.topic, 60), { title: one.topic }), num(one.partition),
      td([h("span", { class: `state ${one.state}` }, one.state), one.holds_watermark && h("strong", { class: "holds" }, " holds the watermark"),
        one.reason !== null && h("div", { class: "reason" }, one.reason)]),
      num(one.next_offset), num(count(one.lag_records)), num(one.lag_seconds === null ? "unknown" : duration(one.lag_seconds)),
      td(utc(one.event_time), { class: "nowrap" }), td([one.host === null ? "none" : clip(one.host, 40),
        one.seen_seconds_ago > 10 && h("span", { class: "sub" }, ` heard of ${duration(one.seen_seconds_ago)} ago`)]))),
    }));
}

/** @type {import("../app.js").View} */
export const overview = {
  name: "", title: "Overview", every: 0,
  render({ overview: all, now }) {
    return [
      h("h1", null, "Overview"),
      all === null ? h("p", { key: "wait" }, "Reading …") : [
        h("h2", { key: "h streams" }, "Streams"),
        streamsTable(all.streams, now),
        h("h2", { key: "h picture" }, "Pipeline"),
        picture(all.stages, all.streams),
        h("h2", { key: "h partitions" }, "Partitions"),
        h("div", { id: "partitions", key: "partitions" }, all.streams.length > 0 ? all.streams.map(partitions) : h("p", null, "None.")),
        h("h2", { key: "h hosts" }, "Hosts"),
        hostsTable(all.hosts, now),
      ],
    ];
  },
};
