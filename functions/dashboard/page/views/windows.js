// The latest windows of a stream, and one of them.
import { aggregates, oneWindow as windowOf, windows as windowsOf } from "../api.js";
import { h, num, region, table, td, th } from "../dom.js";
import { atLeast, clock, count, duration, parse, span, utc } from "../format.js";
import { link } from "../route.js";
import { timeline } from "../scales.js";
import { columns, key, rowOf, streamOf, streamSelect, waiting } from "./parts.js";

/** @typedef {import("../api.js").Window} Window */

const WIDTH = 1100;
const LANE = 26;
const states = { open: "open: still takes records", closing: "closing: past its lateness, not closed yet", final: "final", revised: "revised: changed after it was final" };

/** @param {Window} one */
const to = (one) => link("window", { stream: one.stream, start: one.window_start, end: one.window_end });
/** @param {{codes: number, is_partial: boolean}} one */
const codesText = (one) => `${count(one.codes)}${one.is_partial ? " or more" : ""}`;

/** @param {Window[]} list */
function drawn(list) {
  const { bars, lanes, ticks } = timeline(list, WIDTH);
  const height = lanes * LANE;
  return region("Time line of the windows",
    h("svg", { id: "timeline", width: WIDTH, height: height + 22, viewBox: `0 0 ${WIDTH} ${height + 22}`, role: "group", "aria-label": "Time line of the windows; each is a link" },
      bars.map(({ window, x, width, lane }) => h("a", { key: `${window.window_start} ${window.window_end}`, href: to(window), class: window.state, "data-state": window.state,
        "aria-label": `${span(window.window_start, window.window_end)} UTC: ${window.state}, ${codesText(window)} codes, ${count(window.records)} records` },
      h("rect", { x: x + 1, y: lane * LANE + 2, width: Math.max(1, width - 2), height: LANE - 8, rx: 3 },
        h("title", null, `${span(window.window_start, window.window_end)} UTC: ${window.state}`)))),
      ticks.map(({ at, x }) => h("text", { key: at, class: "axis", x: Math.min(Math.max(x, 24), WIDTH - 24), y: height + 16 }, clock(at).slice(0, 8)))));
}

/** @type {import("../app.js").View} */
export const windows = {
  name: "windows", title: "Windows", every: 2000,
  load: async (of) => {
    const stream = streamOf(of);
    return stream === null ? null : windowsOf({ stream, limit: 50 });
  },
  render(of) {
    const list = /** @type {Window[] | null} */ (of.data);
    return [
      h("h1", null, "Windows"),
      h("div", { key: "controls", class: "controls" }, streamSelect(of, [])),
      !list ? waiting(of) : [
        list.length > 0 && drawn(list),
        h("ul", { key: "legend", class: "legend" }, Object.entries(states).map(([state, text]) =>
          h("li", { key: state }, key(`window ${state}`), text))),
        table({
          id: "windows", label: "Windows, the newest first", none: "This stream has no windows yet.",
          head: ["Window (UTC)", "State", "#Codes", "#Records", "#Revision", "Closed at", "After its end"],
          rows: list.map((one) => {
            const closed = parse(one.closed_at);
            return h("tr", { key: `${one.window_start} ${one.window_end}`, class: one.state === "open" || one.state === "closing" ? "live" : "final", "data-state": one.state },
              h("th", { scope: "row", class: "nowrap" }, h("a", { href: to(one) }, span(one.window_start, one.window_end))),
              td(one.state), num(codesText(one)), num(`${count(one.records)}${one.is_partial ? " or more" : ""}`), num(count(one.revision)),
              td(utc(one.closed_at), { class: "nowrap" }), td(closed === null ? "–" : duration((closed - (parse(one.window_end) ?? closed)) / 1000)));
          }),
        }),
      ],
    ];
  },
};

/** @type {import("../app.js").View} */
export const oneWindow = {
  name: "window", title: "Window", nav: "windows", every: 2000,
  async load({ params }) {
    const query = { stream: params.get("stream"), start: params.get("start"), end: params.get("end"), code: params.get("code") };
    const start = parse(query.start);
    const end = parse(query.end);
    // Windows that start within the second: hopping ones that overlap it are others.
    const to = start === null ? null : new Date(start + 1000).toISOString();
    const [detail, rows] = await Promise.all([
      windowOf(query),
      aggregates({ stream: query.stream, code: query.code, from: query.start, to, limit: 1000 }),
    ]);
    return { detail, more: rows.next !== null,
      rows: rows.body.filter((row) => parse(row.window_start) === start && parse(row.window_end) === end) };
  },
  render(of) {
    const { params } = of;
    const [stream, start, end, code] = ["stream", "start", "end", "code"].map((name) => params.get(name));
    /** @type {{detail: import("../api.js").WindowDetail, rows: import("../api.js").Aggregate[], more: boolean} | null} */
    const data = of.data;
    return [
      h("h1", null, `Window ${span(start, end)} of ${stream ?? ""}`),
      h("p", { key: "links", class: "controls" },
        h("a", { href: link("windows", { stream }) }, "All windows"),
        h("a", { id: "to-chart", href: link("chart", { stream, code: code ?? data?.rows.slice(0, 5).map((row) => row.code), from: surrounding(start, end, -1), to: surrounding(start, end, 1) }) }, "Chart around it"),
        h("a", { href: link("rows", { stream, from: start, to: end, code }) }, "Rows of its time"),
        code && h("a", { key: "all", href: link("window", { stream, start, end }) }, "All codes")),
      !data ? waiting(of) : [
        h("dl", { key: "facts", class: "facts", id: "window", "data-state": data.detail.state },
          [["State", data.detail.state], ["Code", data.detail.code], ["Codes", codesText(data.detail)],
            ["Records", count(data.detail.records)], ["Revisions", count(data.detail.revision)],
            ["Closed at", data.detail.closed_at === null ? "not yet" : `${utc(data.detail.closed_at)} UTC`]]
            .filter(([, value]) => value !== null)
            .map(([name, value]) => [h("dt", { key: `t ${name}` }, name), h("dd", { key: `d ${name}` }, value)])),
        data.detail.is_partial && h("p", { key: "partial", class: "note" }, "Only its first 2,000 codes were counted."),
        h("h2", { key: "h sources" }, "Where its records came from"),
        table({
          id: "sources", label: "Between which offsets the first and last records of its codes are", none: "Nothing is known of it.",
          head: ["Topic", "#Partition", "#First offset", "#Last offset"],
          rows: data.detail.sources.map((one) => h("tr", { key: `${one.topic} ${one.partition}` },
            th(one.topic), num(one.partition), num(one.first_offset), num(one.last_offset))),
        }),
        h("h2", { key: "h rows" }, "Its rows"),
        table({
          id: "window-rows", label: data.more ? `The first ${atLeast(data.rows.length, Infinity)} rows` : "Rows of this window", none: "It has no rows.",
          head: columns.filter(([name]) => name !== "stream" && name !== "window_start").map(([, label]) => label),
          rows: data.rows.map((row) => rowOf(row, true)),
        }),
      ],
    ];
  },
};

/** A time some windows before or after one. @param {string | null | undefined} start @param {string | null | undefined} end @param {number} side */
function surrounding(start, end, side) {
  const from = parse(start);
  const to = parse(end);
  if (from === null || to === null) return null;
  const at = side < 0 ? from - (to - from) * 20 : to + (to - from) * 20;
  return new Date(at).toISOString();
}
