// Asks the dashboard's API. Addresses are relative, so that the page works below any path.

/** @typedef {import("../../../tests/web/generated/api").components["schemas"]} Schemas */
/** @typedef {Schemas["Overview"]} Overview */
/** @typedef {Schemas["Stream"]} Stream */
/** @typedef {Schemas["Stage"]} Stage */
/** @typedef {Schemas["Host"]} Host */
/** @typedef {Schemas["Partition"]} Partition */
/** @typedef {Schemas["Finding"]} Finding */
/** @typedef {Schemas["Health"]} Health */
/** @typedef {Schemas["Aggregate"]} Aggregate */
/** @typedef {Schemas["Series"]} Series */
/** @typedef {Schemas["Window"]} Window */
/** @typedef {Schemas["WindowDetail"]} WindowDetail */
/** @typedef {Schemas["Reject"]} Reject */
/** @typedef {Schemas["RejectSummary"]} RejectSummary */

/** How long an answer may take. */
export const PATIENCE_MS = 2500;

/** Why there is no answer. */
export class Failure extends Error {
  /** @param {"timeout" | "offline" | "problem"} kind @param {string} detail @param {number} [status] */
  constructor(kind, detail, status = 0) {
    super(detail);
    this.kind = kind;
    this.status = status;
  }
}

/** @typedef {Record<string, string | number | null | undefined>} Query */

/** @param {string} path @param {Query} [query] */
export function address(path, query = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") search.set(name, String(value));
  }
  const text = search.toString();
  return `api/${path}${text ? `?${text}` : ""}`;
}

/**
 * The cursor of a Link header's next page.
 * @param {string | null} link
 */
export function nextCursor(link) {
  for (const part of (link ?? "").split(/,\s*(?=<)/)) {
    const found = /^\s*<([^>]*)>(.*)$/.exec(part);
    if (found && /;\s*rel="?next"?/.test(found[2] ?? "")) {
      return new URL(found[1] ?? "", "http://any.invalid/").searchParams.get("cursor");
    }
  }
  return null;
}

/** @param {string} path @param {Query} [query] @returns {Promise<{body: any, next: string | null}>} */
async function get(path, query) {
  try {
    const answer = await fetch(address(path, query), {
      cache: "no-cache", headers: { accept: "application/json" }, signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (!answer.ok) {
      const problem = await answer.json().catch(() => null);
      const detail = typeof problem?.detail === "string" ? problem.detail : `The answer was ${answer.status} ${answer.statusText}`.trim() + ".";
      throw new Failure("problem", detail, answer.status);
    }
    return { body: await answer.json(), next: nextCursor(answer.headers.get("link")) };
  } catch (error) {
    if (error instanceof Failure) throw error;
    const name = error instanceof Error ? error.name : "";
    if (name === "TimeoutError" || name === "AbortError") throw new Failure("timeout", "There was no answer in time.");
    if (name === "SyntaxError") throw new Failure("problem", "The answer was no JSON.");
    throw new Failure("offline", "There is no connection.");
  }
}

/** @returns {Promise<Overview>} */
export const overview = async () => (await get("overview")).body;
/** @param {Query} query @returns {Promise<Series>} */
export const series = async (query) => (await get("series", query)).body;
/** @param {Query} query @returns {Promise<string[]>} */
export const codes = async (query) => (await get("codes", query)).body;
/** @param {Query} query @returns {Promise<Window[]>} */
export const windows = async (query) => (await get("windows", query)).body;
/** @param {Query} query @returns {Promise<WindowDetail>} */
export const oneWindow = async (query) => (await get("window", query)).body;
/** @param {Query} query @returns {Promise<{body: Aggregate[], next: string | null}>} */
export const aggregates = (query) => get("aggregates", query);
/** @param {Query} query @returns {Promise<{body: Reject[], next: string | null}>} */
export const rejects = (query) => get("rejects", query);
/** @param {Query} query @returns {Promise<RejectSummary>} */
export const rejectSummary = async (query) => (await get("rejects/summary", query)).body;
