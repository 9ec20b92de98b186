// Numbers and times as text. Nothing here touches the page.

const none = "–";
/** @typedef {number | null | undefined} Num */
/** @typedef {string | null | undefined} Time */

/** @param {Num} value @returns {value is null | undefined} */
const missing = (value) => value === null || value === undefined || !Number.isFinite(value);

/** A whole number, by thousands. @param {Num} value */
export function count(value) {
  return missing(value) ? none : Math.round(value).toLocaleString("en-US");
}

/** A count that is not taken further than a limit. @param {Num} value @param {number} limit */
export function atLeast(value, limit) {
  return missing(value) ? none : value >= limit ? `${count(limit)} or more` : count(value);
}

/** A value, with as many digits as tell it apart and no more. @param {Num} value */
export function number(value) {
  if (missing(value)) return none;
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size >= 1e15 || size < 1e-4) return value.toExponential(4);
  return value.toLocaleString("en-US", { maximumFractionDigits: size >= 1000 ? 2 : size >= 1 ? 4 : 7 });
}

/** Something each second. @param {Num} value */
export function rate(value) {
  if (missing(value)) return none;
  if (value === 0) return "0/s";
  if (value < 0.01) return "<0.01/s";
  return `${value < 10 ? Number(value.toFixed(2)) : count(value)}/s`;
}

/** @param {Num} value */
export function bytes(value) {
  if (missing(value)) return none;
  if (value < 1024) return `${Math.round(value)} B`;
  let size = value;
  let unit = "B";
  for (const next of ["KiB", "MiB", "GiB", "TiB", "PiB"]) {
    if (size < 1024) break;
    size /= 1024;
    unit = next;
  }
  return `${size.toFixed(size < 10 ? 1 : 0)} ${unit}`;
}

/** A duration: two units at the most. @param {Num} seconds */
export function duration(seconds) {
  if (missing(seconds)) return none;
  const sign = seconds < 0 ? "−" : "";
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  if (size < 0.0995) return `${sign}${Math.max(1, Math.round(size * 1000))} ms`;
  if (size < 9.95) return `${sign}${Number(size.toFixed(1))} s`;
  if (size < 59.5) return `${sign}${Math.round(size)} s`;
  const units = /** @type {const} */ ([[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]);
  // Rounded to the smaller of the two units that are shown first, so that 59 min 60 s cannot be.
  const step = size < 3570 ? 1 : size < 84600 ? 60 : 3600;
  let rest = Math.round(size / step) * step;
  const parts = [];
  for (const [of, unit] of units) {
    const whole = Math.floor(rest / of);
    rest -= whole * of;
    if (whole > 0) parts.push(`${whole} ${unit}`);
  }
  return sign + parts.slice(0, 2).join(" ");
}

/** How long ago, without the smaller unit. @param {number} seconds */
export function roughly(seconds) {
  const size = Math.max(0, seconds);
  if (size < 60) return `${Math.floor(size)} s`;
  if (size < 3600) return `${Math.floor(size / 60)} min`;
  if (size < 172800) return `${Math.floor(size / 3600)} h`;
  return `${Math.floor(size / 86400)} days`;
}

/** @param {Num} ms */
export function millis(ms) {
  if (missing(ms)) return none;
  if (ms >= 1000) return duration(ms / 1000);
  return `${ms < 10 ? Number(ms.toFixed(1)) : Math.round(ms)} ms`;
}

/** Milliseconds of a time. @param {Time} time */
export function parse(time) {
  if (!time) return null;
  const at = Date.parse(time);
  return Number.isNaN(at) ? null : at;
}

/** A time in UTC, with milliseconds where it has some. @param {Time | number} time */
export function utc(time) {
  const at = typeof time === "number" ? time : parse(time);
  if (at === null || !Number.isFinite(at)) return none;
  const text = new Date(at).toISOString();
  return text.slice(0, 10) + " " + text.slice(11, text.endsWith(".000Z") ? 19 : 23);
}

/** The time of day in UTC. @param {Time | number} time */
export function clock(time) {
  const text = utc(time);
  return text === none ? none : text.slice(11);
}

/** A time in UTC, without its date where that is today's. @param {Time} time @param {number} now */
export function near(time, now) {
  const text = utc(time);
  return text.slice(0, 10) === utc(now).slice(0, 10) ? text.slice(11) : text;
}

/** A window as text: its date once. @param {Time} start @param {Time} end */
export function span(start, end) {
  const from = utc(start);
  const to = utc(end);
  return from !== none && from.slice(0, 10) === to.slice(0, 10) ? `${from} – ${to.slice(11)}` : `${from} – ${to}`;
}

/** A time as the API takes it. @param {number} ms */
export function iso(ms) {
  return new Date(ms).toISOString().replace(".000Z", "Z");
}

/** What stands in a field for a time: UTC without its zone. @param {Time} time */
export function field(time) {
  const at = parse(time);
  return at === null ? "" : new Date(at).toISOString().slice(0, 19);
}

/** A field's text as a time; empty where it is none. @param {string} text */
export function fromField(text) {
  const at = text ? Date.parse(/[zZ]$|[+-]\d\d:?\d\d$/.test(text) ? text : `${text}Z`) : NaN;
  return Number.isNaN(at) ? "" : iso(at);
}

/** A digest, short. @param {Time} digest */
export function short(digest) {
  return digest ? digest.replace(/^sha256:/, "").slice(0, 8) : none;
}

/** Text that is no longer than so many characters. @param {string} text @param {number} most */
export function clip(text, most) {
  const letters = [...text];
  return letters.length <= most ? text : `${letters.slice(0, most - 1).join("")}…`;
}

/** What a row's state is called. @param {{is_final: boolean, revision: number | null}} row */
export function rowState(row) {
  if (!row.is_final) return row.revision === null ? "live" : `live, revision ${row.revision}`;
  return row.revision ? `final, revision ${row.revision}` : "final";
}
