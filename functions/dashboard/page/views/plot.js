// The canvas of the chart.
import { utc } from "../format.js";
import { align } from "../scales.js";

/** @typedef {import("../api.js").Series} Series */
/** @typedef {ReturnType<typeof align>} Aligned */

/** @type {uPlot | null} */
let plot = null;
let shape = "";
let given = {};

/** @param {string} name */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function drop() {
  plot?.destroy();
  plot = null;
  shape = "";
}

const dark = matchMedia("(prefers-color-scheme: dark)");

/**
 * Draws the series; makes a new plot only where their number or the colours have changed.
 * @param {HTMLElement} into @param {Series[]} series @param {{from: number, to: number}} range seconds
 * @param {{zoom(from: number, to: number): void, reset(): void, hover(time: number | null): void}} on
 */
export function draw(into, series, range, on) {
  const now = `${series.map((one) => one.code).join("\n")} ${dark.matches}`;
  const width = Math.max(200, into.clientWidth - 8);
  if (plot && (shape !== now || plot.root.parentNode !== into)) drop();
  if (plot && given === series && plot.width === width) return;
  const { x, series: aligned } = align(series);
  /** @type {any[]} */
  const data = [x];
  for (const one of aligned) data.push(one.final, one.live);
  const first = aligned[0];
  if (first) data.push(first.max, first.min);
  given = series;
  if (plot) {
    if (plot.width !== width) plot.setSize({ width, height: 330 });
    plot.setData(data, false);
    plot.setScale("x", { min: range.from, max: range.to });
    return;
  }
  shape = now;
  const text = colour("--soft");
  const grid = { stroke: colour("--edge"), width: 1 };
  const axis = { stroke: text, grid, ticks: grid, font: "12px system-ui, sans-serif" };
  const band = { stroke: "transparent", width: 0, points: { show: false } };
  const lines = series.flatMap((_, i) => {
    const line = { stroke: colour(`--c${i}`), width: 2, points: { show: points, size: 5 } };
    return [line, { ...line, dash: [6, 5] }];
  });
  const last = 1 + lines.length;
  plot = new uPlot({
    width, height: 330,
    tzDate: (ts) => uPlot.tzDate(new Date(ts * 1000), "Etc/UTC"),
    legend: { show: false },
    cursor: { drag: { x: true, y: false, setScale: false }, bind: { dblclick: () => () => { on.reset(); return null; } } },
    scales: { x: { time: true, auto: false, range: (_, min, max) => [min, max] } },
    axes: [{ ...axis, values: times }, { ...axis, size: 72, values: (_, ticks) => ticks.map((tick) => tick.toLocaleString("en-US", { maximumFractionDigits: 8 })) }],
    series: [{}, ...lines, ...(first ? [band, band] : [])],
    bands: first ? [{ series: [last, last + 1], fill: colour("--band") }] : [],
    hooks: {
      setSelect: [(/** @type {uPlot} */ of) => {
        if (of.select.width < 4) return;
        const from = of.posToVal(of.select.left, "x");
        const to = of.posToVal(of.select.left + of.select.width, "x");
        of.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        on.zoom(from, to);
      }],
      setCursor: [(/** @type {uPlot} */ of) => {
        const at = of.cursor.idx;
        on.hover(at === null || at === undefined || (of.cursor.left ?? -1) < 0 ? null : of.data[0][at] ?? null);
      }],
    },
  }, data, into);
  plot.setScale("x", { min: range.from, max: range.to });
}

/**
 * Times of the axis in UTC; the date below the first and wherever it changes.
 * @param {uPlot} _ @param {number[]} at
 */
function times(_, at) {
  const [first = 0, second = 0] = at;
  const whole = second - first >= 86400;
  let before = "";
  return at.map((time) => {
    const text = utc(time * 1000);
    const date = text.slice(0, 10);
    const changed = date !== before;
    before = date;
    if (whole) return date;
    const clock = text.slice(11, second - first < 60 ? 19 : 16);
    return changed ? `${clock}\n${date}` : clock;
  });
}

/** Shows points where there are few, or one alone would not be seen. @param {uPlot} of @param {number} index */
function points(of, index) {
  const values = of.data[index] ?? [];
  return values.length < 60 || values.filter((value) => value !== null && value !== undefined).length < 3;
}
