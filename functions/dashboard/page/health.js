// What the page says first: what the pipeline says of itself or, where nobody answers, that.

/** @typedef {import("./api.js").Overview} Overview */
/** @typedef {import("./api.js").Finding} Finding */
/** @typedef {{kind: string, status: number, message: string}} Failed */
/** @typedef {{state: "healthy" | "degraded" | "failing" | "unknown", sentence: string, since: number | null,
 *   command: string | null, cause: string, others: Finding[], stale: boolean}} Told */

/**
 * The sentence of a failure.
 * @param {Failed} failure @param {number} since when it first failed, in milliseconds
 * @returns {Told}
 */
export function outage(failure, since) {
  const told = { since, others: [], stale: true };
  if (failure.kind === "timeout") {
    return { ...told, state: "failing", cause: "database_away", sentence: "The database does not answer: the dashboard has waited 2.5 s.", command: "exagg status" };
  }
  if (failure.kind === "offline") {
    return { ...told, state: "unknown", cause: "host_away", sentence: "The dashboard's host does not answer.", command: "exagg up" };
  }
  return { ...told, state: "failing", cause: "database_away", sentence: failure.message, command: "exagg status" };
}

/**
 * What is said, of the latest answer and of the failure since then, if there is one.
 * @param {Overview | null} overview @param {Failed | null} failure
 * @param {number | null} failedSince
 * @returns {Told}
 */
export function tell(overview, failure, failedSince) {
  if (failure) return { ...outage(failure, failedSince ?? 0), others: overview?.health.findings ?? [] };
  if (!overview) {
    return { state: "unknown", sentence: "Waiting for the first answer …", since: null, command: null, cause: "", others: [], stale: false };
  }
  const { state, sentence, since, command, findings } = overview.health;
  const at = since ? Date.parse(since) : NaN;
  return {
    state, sentence, command, cause: findings[0]?.cause ?? "", since: Number.isNaN(at) ? null : at, stale: false,
    // The sentence is the first finding's.
    others: findings[0]?.text === sentence ? findings.slice(1) : findings,
  };
}

/** Which word stands before the sentence, so that colour is not all. @param {Told["state"]} state */
export function word(state) {
  return { healthy: "Healthy", degraded: "Degraded", failing: "Failing", unknown: "Unknown" }[state];
}
