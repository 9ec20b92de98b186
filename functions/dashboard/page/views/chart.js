// Averages over time: up to five codes of a stream.
import { series as seriesOf } from "../api.js";
import { h, num, patch, table, td } from "../dom.js";
import { count, fromField, iso, number, parse, utc } from "../format.js";
import { changed, link } from "../route.js";
import { combo, reset } from "./combo.js";
import { key, rangeFields, streamOf, streamSelect, valueOf, waiting } from "./parts.js";
import { draw, drop } from "./plot.js";

/** @typedef {import("../api.js").Series} Series */
/** @typedef {import("../app.js").Context} Context */

const MOST = 5;
/** @type {Record<string, [number, string]>} */
const ranges = { "1h": [3600, "1 h"], "6h": [21600, "6 h"], "24h": [86400, "24 h"], "7d": [604800, "7 d"] };

/** The time under the pointer, in seconds. @type {number | null} */
let hovered = null;
let tableOpen = false;

/** The range of the link, in milliseconds. @param {Context} of */
function rangeOf({ params, now }) {
  const from = parse(params.get("from"));
  const to = parse(params.get("to"));
  if (from === null && to === null) {
    const [seconds] = ranges[params.get("last") ?? "1h"] ?? [3600];
    return { from: now - seconds * 1000, to: now, follows: true };
  }
  const end = to ?? now;
  return { from: from ?? end - 3600000, to: end, follows: to === null };
}

/** @param {Context} of */
const codesOf = ({ params }) => [...new Set(params.getAll("code"))].slice(0, MOST);

/** The row at or before the pointer, or the latest one. @param {Series} series */
function pointAt(series) {
  if (hovered === null) return series.points.at(-1);
  const at = hovered * 1000;
  return series.points.find((point) => parse(point.time) === at);
}

const HEAD = ["Code", "Time (UTC)", "#Average", "#Lowest", "#Highest", "#Records", "State"];

/** @param {Series["points"][number] | undefined} point */
const pointCells = (point) => [
  td(utc(point?.time), { class: "nowrap" }), num(number(point?.avg)), num(number(point?.min)), num(number(point?.max)), num(count(point?.records)),
  td(point ? (point.is_final ? "final" : "not final") : "no records"),
];

/** @param {Series[]} list */
function values(list) {
  return table({
    id: "chart-values", label: hovered === null ? "Latest values; point at the chart for others" : `Values at ${utc(hovered * 1000)} UTC`,
    head: HEAD,
    rows: list.map((one, i) => {
      const point = pointAt(one);
      return h("tr", { key: one.code, "data-code": one.code, class: point && !point.is_final ? "live" : null },
        h("th", { scope: "row", class: "code" }, key(`c${i}`), " ", one.code),
        pointCells(point));
    }),
  });
}

/** @param {Series[]} list */
function notes(list) {
  const of = Math.max(1, ...list.map((one) => one.one_of_windows));
  const per = Math.max(1, ...list.map((one) => one.windows_per_point));
  return h("p", { key: "notes", id: "chart-notes", class: "note" },
    "Solid: final. Dashed: not final. ", list.length > 0 && `The band is from the lowest to the highest of ${list[0]?.code}. `,
    of > 1 && h("strong", null, `1 of ${count(of)} windows is shown. `), per > 1 && `Each point takes in ${count(per)} windows. `);
}

/** @type {import("../app.js").View} */
export const chart = {
  name: "chart", title: "Chart", every: 5000,
  async load(of) {
    const stream = streamOf(of);
    const codes = codesOf(of);
    if (stream === null) return null;
    const { from, to, follows } = rangeOf(of);
    const list = await Promise.all(codes.map((code) => seriesOf({ stream, code, from: iso(from), to: follows ? null : iso(to), points: 500 })));
    return { list, from, to, stream };
  },
  render(of) {
    const { params } = of;
    const stream = streamOf(of);
    const codes = codesOf(of);
    /** @type {{list: Series[], from: number, to: number} | null} */
    const data = of.data;
    const range = rangeOf(of);
    const list = data?.list ?? [];
    const last = params.get("from") || params.get("to") ? null : params.get("last") ?? "1h";
    const points = list.reduce((sum, one) => sum + one.points.length, 0);
    return [
      h("h1", null, "Chart"),
      h("div", { key: "controls", class: "controls" },
        streamSelect(of, ["code"]),
        stream !== null && combo({ stream, chosen: codes, most: MOST, render: of.render, choose: (code) => of.go({ code: [...new Set([...codes, code])] }) }),
        h("div", { class: "labelled", role: "group", "aria-label": "Range", key: "range" }, h("span", null, "Range until now"),
          h("div", { class: "group" }, Object.entries(ranges).map(([name, [, text]]) =>
            h("a", { key: name, "data-last": name, href: changed("chart", params, { last: name, from: null, to: null }), "aria-current": last === name ? "true" : null }, text))))),
      h("form", { key: "custom", id: "range", onsubmit: (/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        const form = /** @type {HTMLFormElement} */ (event.currentTarget);
        of.go({ last: null, from: fromField(valueOf(form, "from")), to: fromField(valueOf(form, "to")) });
      } },
      rangeFields(params, "chart"),
      h("button", { type: "submit" }, "Show"),
      h("button", { type: "button", id: "reset", onclick: () => of.go({ from: null, to: null }) }, "Reset the range")),
      h("ul", { key: "chips", class: "chips", id: "chips", "aria-label": "Codes that are shown" }, codes.map((code, i) => h("li", { key: code, "data-code": code },
        key(`c${i}`), code, h("button", { type: "button", "aria-label": `Remove ${code}`, onclick: () => of.go({ code: codes.filter((other) => other !== code) }) }, "×")))),
      codes.length === 0 ? h("p", { key: "none", class: "note" }, stream === null ? "No stream has read a record yet." : "Add a code to see its averages.")
        : data === null ? waiting(of) : points === 0 && h("p", { key: "empty", id: "chart-empty" }, "These codes have no records in this range."),
      codes.length > 0 && [
        h("div", { key: "plot", id: "plot", own: true, role: "img",
          "aria-label": `Averages of ${codes.join(", ")} from ${utc(range.from).slice(0, 19)} to ${utc(range.to).slice(0, 19)} UTC. The table below has the values.` }),
        notes(list),
        h("div", { key: "values", id: "values", own: true }),
        h("p", { key: "links" }, h("a", { id: "to-rows", href: link("rows", { stream, code: codes.length === 1 ? codes[0] : null, from: iso(range.from), to: range.follows ? null : iso(range.to) }) },
          "Rows of this range"), ". Drag over the chart to zoom; a double click goes back."),
        h("details", { key: "table", id: "chart-table", ontoggle: (/** @type {Event} */ event) => {
          tableOpen = /** @type {HTMLDetailsElement} */ (event.target).open;
          of.render();
        } },
        h("summary", null, `All ${count(points)} points as a table`),
        tableOpen && table({
          label: "Points of the chart", hideLabel: true,
          head: HEAD,
          rows: list.flatMap((one) => one.points.map((point) => h("tr", { key: `${point.time} ${one.code}`, class: point.is_final ? null : "live" },
            td(one.code, { class: "code" }), pointCells(point)))),
        })),
      ],
    ];
  },
  shown(of) {
    const into = document.getElementById("plot");
    const box = document.getElementById("values");
    if (!into || !box) return drop();
    /** @type {{list: Series[], from: number, to: number} | null} */
    const data = of.data;
    const list = data?.list ?? [];
    patch(box, [values(list)]);
    if (!data || list.length === 0) return drop();
    draw(into, list, { from: data.from / 1000, to: data.to / 1000 }, {
      zoom: (from, to) => of.go({ from: iso(Math.floor(from) * 1000), to: iso(Math.ceil(to) * 1000) }),
      reset: () => of.go({ from: null, to: null }),
      hover: (time) => {
        if (time === hovered) return;
        hovered = time;
        patch(box, [values(list)]);
      },
    });
  },
  gone() {
    hovered = null;
    tableOpen = false;
    reset();
    drop();
  },
};
