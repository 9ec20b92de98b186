// Positions of what is drawn. Nothing here touches the page.
import { parse } from "./format.js";

/** @typedef {import("./api.js").Partition} Partition */
/** @typedef {import("./api.js").Window} Window */
/** @typedef {import("./api.js").Series} Series */

/** @param {number} value */
const round = (value) => Math.round(value * 10) / 10;

/**
 * A line of values from left to right; where there is none it breaks.
 * @param {(number | null)[]} values @param {number} width @param {number} height
 */
export function spark(values, width, height) {
  const top = Math.max(1, ...values.filter((value) => value !== null));
  const step = values.length > 1 ? width / (values.length - 1) : 0;
  let path = "";
  let drawn = false;
  values.forEach((value, i) => {
    if (value === null) {
      drawn = false;
      return;
    }
    const y = round(height - 1 - (Math.max(0, value) / top) * (height - 2));
    // A value alone is a line of no length, which a round cap shows.
    path += `${drawn ? "L" : "M"}${round(i * step)} ${y}`;
    if (!drawn && (values[i + 1] ?? null) === null) path += "h0";
    drawn = true;
  });
  return path;
}

/** How much a partition needs to be looked at. @param {Partition} one */
function trouble(one) {
  return { stopped: 4, unattended: 2, waiting: 1, reading: 0 }[one.state] + (one.holds_watermark ? 3 : 0);
}

/** @param {Partition} a @param {Partition} b */
const byName = (a, b) => (a.topic < b.topic ? -1 : a.topic > b.topic ? 1 : a.partition - b.partition);

/**
 * The partitions that are shown: the worst, and those first that need to be looked at.
 * @param {Partition[]} partitions @param {number} most
 */
export function worst(partitions, most) {
  const sorted = [...partitions].sort((a, b) =>
    trouble(b) - trouble(a) || (b.lag_seconds ?? -1) - (a.lag_seconds ?? -1) || b.lag_records - a.lag_records || byName(a, b));
  const shown = sorted.slice(0, most).sort((a, b) => trouble(b) - trouble(a) || byName(a, b));
  return { shown, more: sorted.length - shown.length };
}

/**
 * Where each partition's latest event time is, relative to the watermark: one column each.
 * @param {Partition[]} partitions @param {string | null} watermark
 * @param {{column: number, height: number}} size
 */
export function strip(partitions, watermark, { column, height }) {
  const zero = parse(watermark);
  const seconds = partitions.map((one) => {
    const at = parse(one.event_time);
    return at === null || zero === null ? null : (at - zero) / 1000;
  });
  const known = seconds.filter((value) => value !== null);
  const top = Math.max(1, ...known);
  const bottom = Math.min(0, ...known);
  const y = (/** @type {number} */ value) => round(((top - value) / (top - bottom)) * height);
  return {
    width: partitions.length * column,
    top,
    bottom,
    zero: y(0),
    columns: partitions.map((partition, i) => {
      const ahead = seconds[i] ?? null;
      return { partition, ahead, x: i * column, y: ahead === null ? null : y(ahead) };
    }),
  };
}

/**
 * Windows on a line of time; those that overlap stand below each other.
 * @param {Window[]} windows @param {number} width
 */
export function timeline(windows, width) {
  const all = windows
    .map((window) => ({ window, start: parse(window.window_start) ?? 0, end: parse(window.window_end) ?? 0 }))
    .sort((a, b) => a.start - b.start || a.end - b.end);
  const from = all[0]?.start ?? 0;
  const to = Math.max(from + 1, ...all.map((one) => one.end));
  const x = (/** @type {number} */ at) => round(((at - from) / (to - from)) * width);
  /** @type {number[]} */
  const ends = [];
  const bars = all.map(({ window, start, end }) => {
    let lane = ends.findIndex((until) => until <= start);
    if (lane < 0) lane = ends.length;
    ends[lane] = end;
    return { window, x: x(start), width: round(Math.max(2, x(end) - x(start) - 1)), lane };
  });
  return { bars, lanes: Math.max(1, ends.length), from, to, ticks: ticks(from, to, 6).map((at) => ({ at, x: x(at) })) };
}

/** Round times within a range, at most so many. @param {number} from @param {number} to @param {number} most */
export function ticks(from, to, most) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
  const ms = (steps.find((step) => (to - from) / (step * 1000) <= most) ?? Math.ceil((to - from) / most / 86400000) * 86400) * 1000;
  const out = [];
  for (let at = Math.ceil(from / ms) * ms; at <= to && out.length < most + 1; at += ms) out.push(at);
  return out;
}

/**
 * Counts by minute, the reasons on top of each other: the most frequent one lowest.
 * @param {{minute: string, reason: string, records: number}[]} counts @param {number} now
 * @param {{width: number, height: number, minutes: number}} size
 */
export function stack(counts, now, { width, height, minutes }) {
  const last = Math.floor(now / 60000);
  /** @type {Map<string, number>} */
  const totals = new Map();
  /** @type {Map<number, {reason: string, records: number}[]>} */
  const byMinute = new Map();
  for (const { minute, reason, records } of counts) {
    totals.set(reason, (totals.get(reason) ?? 0) + records);
    const column = minutes - 1 - (last - Math.floor((parse(minute) ?? 0) / 60000));
    if (column < 0 || column >= minutes) continue;
    const of = byMinute.get(column) ?? [];
    of.push({ reason, records });
    byMinute.set(column, of);
  }
  const reasons = [...totals].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).map(([reason, records]) => ({ reason, records }));
  const order = new Map(reasons.map(({ reason }, i) => [reason, i]));
  const top = Math.max(1, ...[...byMinute.values()].map((of) => of.reduce((sum, one) => sum + one.records, 0)));
  /** @type {{column: number, x: number, y: number, width: number, height: number, reason: string, order: number, records: number}[]} */
  const bars = [];
  for (const [column, of] of byMinute) {
    let sum = 0;
    for (const { reason, records } of of.sort((a, b) => (order.get(a.reason) ?? 0) - (order.get(b.reason) ?? 0))) {
      const low = (sum / top) * height;
      sum += records;
      const high = (sum / top) * height;
      bars.push({ column, reason, records, order: order.get(reason) ?? 0, x: round((column * width) / minutes),
        width: round(width / minutes - 1), y: round(height - high), height: round(Math.max(0.5, high - low)) });
    }
  }
  return { bars, reasons, top };
}

/**
 * Several series over the same times, for a chart: an average where it is final and where it is not,
 * the lowest and the highest. A line breaks (null) where windows without records are, and goes on
 * (undefined) where only another series has a point.
 * @param {Series[]} all
 */
export function align(all) {
  const own = all.map((one) => {
    const times = one.points.map((point) => (parse(point.time) ?? 0) / 1000);
    let step = Infinity;
    for (let i = 1; i < times.length; i += 1) step = Math.min(step, (times[i] ?? 0) - (times[i - 1] ?? 0));
    return { points: one.points, times, step };
  });
  /** @type {Set<number>} */
  const union = new Set();
  for (const { times, step } of own) {
    times.forEach((time, i) => {
      union.add(time);
      if (i > 0 && time - (times[i - 1] ?? 0) > step * 1.5) union.add((times[i - 1] ?? 0) + step);
    });
  }
  const x = [...union].sort((a, b) => a - b);
  const index = new Map(x.map((time, i) => [time, i]));
  return {
    x,
    series: own.map(({ points, times, step }) => {
      /** @returns {(number | null | undefined)[]} */
      const empty = () => new Array(x.length).fill(undefined);
      const out = { final: empty(), live: empty(), min: empty(), max: empty(), at: new Array(x.length).fill(-1) };
      points.forEach((point, i) => {
        const k = index.get(times[i] ?? 0) ?? 0;
        const before = i > 0 ? index.get(times[i - 1] ?? 0) ?? 0 : -1;
        const broken = i > 0 && (times[i] ?? 0) - (times[i - 1] ?? 0) > step * 1.5;
        if (broken) {
          for (let gap = before + 1; gap < k; gap += 1) {
            out.final[gap] = out.live[gap] = out.min[gap] = out.max[gap] = null;
          }
        }
        out.min[k] = point.min;
        out.max[k] = point.max;
        out.at[k] = i;
        out.final[k] = point.is_final ? point.avg : null;
        out.live[k] = point.is_final ? null : point.avg;
        // The dashed line begins and ends at the points that are final beside it.
        const last = points[i - 1];
        if (last && !broken && last.is_final !== point.is_final) {
          if (last.is_final) out.live[before] = last.avg;
          else out.live[k] = point.avg;
        }
      });
      return out;
    }),
  };
}
