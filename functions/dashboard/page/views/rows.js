// The rows: filtered, sorted, page by page, and as files.
import { address, aggregates } from "../api.js";
import { h, table } from "../dom.js";
import { count, fromField, utc } from "../format.js";
import { columns, pages, rangeFields, rowOf, streamSelect, valueOf } from "./parts.js";

/** @typedef {import("../api.js").Aggregate} Aggregate */

const PAGE = 100;

/** @param {URLSearchParams} params */
const query = (params) => ({ stream: params.get("stream"), code: params.get("code"), from: params.get("from"), to: params.get("to") });

/** @param {Aggregate[]} rows @param {string | null} by @param {boolean} down */
function sorted(rows, by, down) {
  if (!by || !columns.some(([name]) => name === by)) return rows;
  const name = /** @type {keyof Aggregate} */ (by);
  const sign = down ? -1 : 1;
  return [...rows].sort((a, b) => {
    const x = a[name] ?? "";
    const y = b[name] ?? "";
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  });
}

/** @type {import("../app.js").View} */
export const rows = {
  name: "rows", title: "Rows", every: 2000,
  load: ({ params }) => aggregates({ ...query(params), limit: PAGE, cursor: params.get("cursor") }),
  render(of) {
    const { params, data } = of;
    const by = params.get("sort");
    const down = params.get("order") === "down";
    const all = query(params);
    const list = data ? sorted(data.body, by, down) : [];
    const range = params.get("from") || params.get("to")
      ? `from ${params.get("from") ? utc(params.get("from")) : "an hour before"} to ${params.get("to") ? utc(params.get("to")) : "now"} (UTC)` : "of the last hour";
    return [
      h("h1", null, "Rows"),
      h("form", { key: "filter", id: "filter", onsubmit: (/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        const form = /** @type {HTMLFormElement} */ (event.currentTarget);
        of.go({ code: valueOf(form, "code"), from: fromField(valueOf(form, "from")), to: fromField(valueOf(form, "to")), cursor: null });
      } },
      streamSelect(of, ["cursor"], true),
      h("label", null, "Code", h("input", { name: "code", id: "row-code", autocomplete: "off", spellcheck: "false", value: params.get("code") ?? "" })),
      rangeFields(params, "row"),
      h("button", { type: "submit", id: "apply" }, "Show"),
      h("a", { class: "button", href: "#/rows", key: "clear" }, "Clear")),
      h("p", { key: "range", class: "note" }, data ? `${count(list.length)} rows of windows ${range}, the newest window first. Sorting is of this page only.` : of.failed ? "There is no answer." : "Reading …"),
      table({
        id: "rows", label: "Rows", hideLabel: true, none: data ? (data.next ? "None on this page; there are older windows." : "No rows in this range.") : "Not known yet.",
        head: columns.map(([name, label]) => h("th", { key: name, scope: "col", class: label.startsWith("#") ? "number" : null,
          "aria-sort": by === name ? (down ? "descending" : "ascending") : null },
        h("button", { type: "button", "data-sort": name, onclick: () =>
          of.go(by !== name ? { sort: name, order: null } : down ? { sort: null, order: null } : { order: "down" }, true) },
        label.replace("#", ""), by === name ? (down ? " ▼" : " ▲") : ""))),
        rows: list.map((row) => rowOf(row)),
      }),
      h("div", { key: "pages", class: "controls" },
        pages("rows", params, data?.next),
        h("a", { key: "csv", id: "csv", class: "button", download: "aggregates.csv", href: address("aggregates", { ...all, format: "csv", limit: 10000 }) }, "Download CSV"),
        h("a", { key: "json", id: "json", class: "button", download: "aggregates.json", href: address("aggregates", { ...all, format: "json", limit: 10000 }) }, "Download JSON"),
        h("span", { class: "note" }, "10,000 rows at the most.")),
    ];
  },
};
