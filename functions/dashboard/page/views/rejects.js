// The records that are not counted.
import { rejectSummary, rejects as rejectsOf } from "../api.js";
import { copyable, h, num, region, table, td } from "../dom.js";
import { bytes, clip, clock, count, utc } from "../format.js";
import { changed } from "../route.js";
import { stack } from "../scales.js";
import { key, pages, streamOf, streamSelect, waiting } from "./parts.js";

/** @typedef {import("../api.js").Reject} Reject */
/** @typedef {import("../api.js").RejectSummary} RejectSummary */

const SIZE = { width: 900, height: 90, minutes: 60 };
const PAGE = 50;

/** @param {Reject} one */
function value(one) {
  if (one.value_hidden !== null) return h("em", { class: "note" }, `hidden: ${one.value_hidden}`);
  const size = one.value_bytes ?? 0;
  if (one.value !== null) return [label("text", one.value.length < size && new TextEncoder().encode(one.value).length < size), h("pre", { class: "value", key: "value" }, one.value)];
  if (one.value_hex !== null) return [label("hex", one.value_hex.length / 2 < size), h("pre", { class: "value", key: "value" }, one.value_hex)];
  return h("em", { class: "note" }, one.value_bytes === null ? "no value (a tombstone)" : "empty");
}

/** @param {string} kind @param {boolean} cut */
const label = (kind, cut) => h("div", { class: "sub", key: "label" }, cut ? `${kind}, its beginning` : kind);

/** @param {RejectSummary} summary @param {number} now */
function drawn(summary, now) {
  const { bars, reasons, top } = stack(summary.counts, now, SIZE);
  const first = Math.floor(now / 60000) * 60000 - 59 * 60000;
  return {
    reasons,
    svg: region("Rejected records by minute", h("svg", { class: "stack", id: "reject-chart", role: "img", width: SIZE.width + 60, height: SIZE.height + 22,
      viewBox: `-48 -4 ${SIZE.width + 60} ${SIZE.height + 22}`, "aria-label": `Rejected records of each minute of the last hour, at most ${count(top)}. The table has the sums.` },
    h("text", { x: -46, y: 8 }, count(top)),
    h("line", { x1: 0, x2: SIZE.width, y1: SIZE.height, y2: SIZE.height }),
    bars.map((bar) => h("rect", { key: `${bar.column} ${bar.order}`, class: `c${Math.min(5, bar.order)}`, x: bar.x, y: bar.y, width: bar.width, height: bar.height },
      h("title", null, `${clock(first + bar.column * 60000).slice(0, 5)} UTC: ${count(bar.records)}, ${bar.reason}`))),
    [0, 15, 30, 45, 59].map((column) => h("text", { key: `t${column}`, x: (column * SIZE.width) / SIZE.minutes, y: SIZE.height + 15 }, clock(first + column * 60000).slice(0, 5))))),
  };
}

/** @type {import("../app.js").View} */
export const rejects = {
  name: "rejects", title: "Rejected", every: 2000,
  async load(of) {
    const stream = streamOf(of);
    if (stream === null) return null;
    const [summary, page] = await Promise.all([
      rejectSummary({ stream }),
      rejectsOf({ stream, reason: of.params.get("reason"), cursor: of.params.get("cursor"), limit: PAGE }),
    ]);
    return { summary, page, stream };
  },
  render(of) {
    /** @type {{summary: RejectSummary, page: {body: Reject[], next: string | null}, stream: string} | null} */
    const data = of.data;
    const reason = of.params.get("reason");
    const shown = data && drawn(data.summary, of.now);
    return [
      h("h1", null, "Rejected records"),
      h("div", { key: "controls", class: "controls" }, streamSelect(of, ["reason", "cursor"])),
      !data || !shown ? waiting(of) : [
        data.summary.replay_command !== null && h("p", { key: "replay", id: "replay" }, "Late records can be counted in: ",
          copyable(data.summary.replay_command, { code: "replay-command", button: "replay-copy" })),
        h("h2", { key: "h last" }, "The last hour"),
        data.summary.is_partial && h("p", { key: "partial", class: "note" }, "Only the latest 100,000 were counted."),
        shown.reasons.length > 0 && shown.svg,
        table({
          id: "reasons", label: "By reason", hideLabel: true, none: "None in the last hour.",
          head: ["Reason", "#Records"],
          rows: shown.reasons.map((one, i) => h("tr", { key: one.reason, "data-reason": one.reason },
            h("th", { scope: "row" }, key(`c${Math.min(5, i)}`), " ",
            h("a", { href: changed("rejects", of.params, { stream: data.stream, reason: one.reason, cursor: null }), "aria-current": one.reason === reason ? "true" : null }, one.reason)),
            num(count(one.records)))),
        }),
        h("h2", { key: "h records" }, "Records"),
        reason !== null && h("p", { key: "filter", id: "reason-filter" }, `Only those of the reason “${reason}”. `,
          h("a", { href: changed("rejects", of.params, { reason: null, cursor: null }) }, "Show all")),
        table({
          id: "rejects", label: "Records that are not counted, the latest first", none: "There are none.",
          head: ["Rejected at (UTC)", "Reason", "Topic", "#Partition", "#Offset", "Window", "#Size", "Value"],
          rows: data.page.body.map((one) => h("tr", { key: `${one.topic} ${one.partition} ${one.offset} ${one.window_start} ${one.reason}` },
            td(utc(one.rejected_at), { class: "nowrap" }), td(one.reason, { class: "code" }), td(clip(one.topic, 60), { title: one.topic }), num(one.partition), num(one.offset),
            td(one.window_start === null ? "all of the record" : `from ${utc(one.window_start)}`),
            num(one.value_bytes === null ? "–" : bytes(one.value_bytes)), td(value(one)))),
        }),
        h("div", { key: "pages", class: "controls" }, pages("rejects", of.params, data.page.next)),
      ],
    ];
  },
};
