// What several views have in common.
import { h, num, td } from "../dom.js";
import { clip, count, field, number, rowState, span } from "../format.js";
import { changed, link } from "../route.js";

/** @typedef {import("../app.js").Context} Context */

/** The stream of the link, or the first one. @param {Context} of */
export const streamOf = ({ params, overview }) => params.get("stream") || overview?.streams[0]?.stream || null;

/**
 * Chooses the stream; a change drops what belongs to the one before.
 * @param {Context} of @param {string[]} drop @param {boolean} [all] whether all of them can be chosen
 */
export function streamSelect(of, drop, all = false) {
  const chosen = (all ? of.params.get("stream") : streamOf(of)) ?? "";
  const names = (of.overview?.streams ?? []).map((one) => one.stream);
  if (chosen && !names.includes(chosen)) names.push(chosen);
  return h("label", { key: "stream" }, "Stream",
    h("select", { id: "stream", name: "stream", value: chosen,
      onchange: (/** @type {Event} */ event) => of.go({
        ...Object.fromEntries(drop.map((name) => [name, null])), stream: /** @type {HTMLSelectElement} */ (event.target).value,
      }) },
    all && h("option", { key: "all", value: "" }, "All streams"),
    // Text before its value, which a select needs to find its option.
    names.map((name) => h("option", { key: `of ${name}`, value: name }, clip(name, 60)))));
}

/** Where nothing can be shown yet. @param {Context} of */
export const waiting = (of) =>
  h("p", { key: "waiting", class: "note" }, of.overview && of.overview.streams.length === 0 ? "No stream has read a record yet." : of.failed ? "There is no answer." : "Reading …");

/** The columns of rows. */
export const columns = /** @type {const} */ ([
  ["stream", "Stream"], ["code", "Code"], ["window_start", "Window (UTC)"], ["avg_vol", "#Average"], ["records", "#Records"], ["sum_vol", "#Sum"],
  ["min_vol", "#Lowest"], ["max_vol", "#Highest"], ["first_vol", "#First"], ["last_vol", "#Last"], ["is_final", "State"],
]);

/** @param {import("../api.js").Aggregate} row @param {boolean} [short] without its stream and window */
export function rowOf(row, short = false) {
  const to = { stream: row.stream, start: row.window_start, end: row.window_end };
  return h("tr", { key: `${row.stream} ${row.window_start} ${row.window_end} ${row.code}`, class: row.is_final ? "final" : "live", "data-code": row.code },
    !short && td(clip(row.stream, 40)),
    h("th", { scope: "row", class: "code" }, h("a", { href: link("chart", { stream: row.stream, code: row.code }) }, row.code)),
    !short && td(h("a", { href: link("window", to) }, span(row.window_start, row.window_end)), { class: "nowrap" }),
    num(number(row.avg_vol)), num(count(row.records)), num(number(row.sum_vol)), num(number(row.min_vol)), num(number(row.max_vol)),
    num(number(row.first_vol)), num(number(row.last_vol)), td(rowState(row), { class: "nowrap row-state" }));
}

/** The value of a field of a form. @param {HTMLFormElement} form @param {string} name */
export function valueOf(form, name) {
  const field = form.elements.namedItem(name);
  return field && "value" in field ? String(field.value) : "";
}

/** The fields of a range of time. @param {URLSearchParams} params @param {string} id */
export const rangeFields = (params, id) => [["from", "From (UTC)"], ["to", "To (UTC)"]].map(([name = "", label]) =>
  h("label", { key: name }, label, h("input", { name, id: `${id}-${name}`, type: "datetime-local", step: 1, value: field(params.get(name)) })));

/** What leads to the next page and back. @param {string} view @param {URLSearchParams} params @param {string | null | undefined} next */
export const pages = (view, params, next) => [
  params.get("cursor") && h("button", { key: "back", id: "newer", type: "button", onclick: () => history.back() }, "Back to newer ones"),
  params.get("cursor") && h("a", { key: "first", class: "button", href: changed(view, params, { cursor: null }) }, "Newest"),
  next && h("a", { key: "next", id: "older", class: "button", href: changed(view, params, { cursor: next }) }, "Older"),
];

/** A patch of colour in a legend. @param {string} name */
export const key = (name) => h("svg", { class: "key", viewBox: "0 0 18 10", width: 18, height: 10, "aria-hidden": "true" },
  h("rect", { class: name, x: 1, y: 1, width: 16, height: 8 }));
