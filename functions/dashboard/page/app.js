// The page: which view is open, and when it asks again.
import * as api from "./api.js";
import { copyable, h, patch } from "./dom.js";
import { roughly, utc } from "./format.js";
import { tell, word } from "./health.js";
import { changed, link, parse } from "./route.js";
import { chart } from "./views/chart.js";
import { functions } from "./views/functions.js";
import { overview } from "./views/overview.js";
import { rejects } from "./views/rejects.js";
import { rows } from "./views/rows.js";
import { oneWindow, windows } from "./views/windows.js";

/**
 * What a view is given: the parameters of its link, the latest overview, its own latest data, whether
 * its last request failed, and the database's clock.
 * @typedef {{params: URLSearchParams, overview: api.Overview | null, data: any, failed: boolean, now: number,
 *   go(change: import("./route.js").Params, replace?: boolean): void, render(): void}} Context
 * @typedef {{name: string, title: string, nav?: string, every: number, load?(of: Context): Promise<any>,
 *   render(of: Context): import("./dom.js").Kid[], shown?(of: Context): void, gone?(): void}} View
 */

/** @type {View[]} */
const views = [overview, chart, rows, windows, oneWindow, rejects, functions];
const POLL_MS = 1000;

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @type {api.Overview | null} */
let latest = null;
/** @type {api.Failure | null} */
let failure = null;
/** @type {number | null} */
let failedSince = null;
/** How far the database's clock is ahead of this one. */
let ahead = 0;
let current = /** @type {View} */ (overview);
let params = new URLSearchParams();
/** @type {any} */
let data = null;
/** The parameters that the data are of. */
let loadedFor = "";
/** @type {api.Failure | null} */
let viewFailure = null;

/** Does some work again and again, never twice at a time, and only while the page is seen. */
class Poll {
  /** @param {() => Promise<void>} work @param {number} every */
  constructor(work, every) {
    this.work = work;
    this.every = every;
    this.busy = false;
    this.stopped = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
  }
  async run() {
    if (this.busy || this.stopped) return;
    clearTimeout(this.timer);
    this.busy = true;
    const began = performance.now();
    await this.work();
    this.busy = false;
    if (this.stopped || document.hidden) return;
    this.timer = setTimeout(() => void this.run(), Math.max(0, this.every - (performance.now() - began)));
  }
  pause() {
    clearTimeout(this.timer);
  }
  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
  }
}

const main = new Poll(async () => {
  try {
    const first = latest === null;
    latest = await api.overview();
    ahead = Date.parse(latest.now) - Date.now();
    failure = failedSince = null;
    // Which stream is the first one is known only now.
    if (first && data === null && !params.get("stream")) startOwn();
  } catch (error) {
    failure = asFailure(error);
    failedSince ??= Date.now();
  }
  render();
}, POLL_MS);
let own = new Poll(async () => undefined, POLL_MS);

/** @param {unknown} error */
function asFailure(error) {
  if (error instanceof api.Failure) return error;
  console.error(error);
  return new api.Failure("problem", "The page does not understand the answer. Load it again.");
}

/** @returns {Context} */
function context() {
  return {
    params, overview: latest, data, failed: viewFailure !== null, now: failure && latest ? Date.parse(latest.now) : Date.now() + ahead,
    go(change, replace = false) {
      const to = changed(current.name, params, change);
      if (replace) {
        history.replaceState(null, "", to);
        open();
      } else location.hash = to;
    },
    render,
  };
}

function startOwn() {
  own.stop();
  const { load } = current;
  if (!load) return;
  const poll = new Poll(async () => {
    const of = params.toString();
    let got = data;
    let failed = null;
    try {
      got = await load(context());
    } catch (error) {
      failed = asFailure(error);
    }
    if (poll.stopped) return;
    if (!failed) loadedFor = of;
    // What was answered before stays while nobody answers, but not where it is of another question.
    data = failed && (failed.status === 400 || loadedFor !== of) ? null : got;
    viewFailure = failed;
    byId("main").removeAttribute("aria-busy");
    render();
  }, current.every);
  own = poll;
  void poll.run();
}

/** Shows the view of the address. */
function open() {
  const at = parse(location.hash);
  const next = views.find((view) => view.name === at.view) ?? overview;
  const other = next !== current;
  if (other) {
    current.gone?.();
    data = null;
  }
  current = next;
  params = at.params;
  viewFailure = null;
  if (current.load) byId("main").setAttribute("aria-busy", "true");
  document.title = `${current.title} · Pipeline dashboard`;
  render();
  if (other) {
    scrollTo(0, 0);
    if (document.activeElement === document.body) byId("main").focus({ preventScroll: true });
  }
  startOwn();
}

function renderHealth() {
  const told = tell(latest, failure, failedSince);
  const section = byId("health");
  section.dataset.state = told.state;
  section.dataset.cause = told.cause;
  document.body.classList.toggle("stale", told.stale);
  const clock = told.stale ? Date.now() : Date.now() + ahead;
  patch(section, [
    h("p", { key: "first", class: "first" },
      h("strong", { class: "word" }, word(told.state)), " ",
      h("span", { id: "health-sentence" }, told.sentence), told.since !== null && " · ",
      told.since !== null && h("span", { id: "health-since", "aria-live": "off", title: `since ${utc(told.since)} UTC` },
        `for ${roughly((clock - told.since) / 1000)}`)),
    told.stale && latest && h("p", { key: "stale", id: "stale-note" }, `The numbers below are those of ${utc(latest.now)} UTC.`),
    h("p", { key: "command", "aria-live": "off", hidden: told.command === null },
      copyable(told.command ?? "", { code: "health-command", button: "health-copy" })),
    told.others.length > 0 && h("details", { key: "others", id: "health-others", "aria-live": "off" },
      h("summary", null, `${told.others.length} ${told.stale ? "earlier" : "other"} finding${told.others.length > 1 ? "s" : ""}`),
      h("ul", null, told.others.map((finding, i) => h("li", { key: `${finding.cause} ${i}`, class: finding.severity, "data-cause": finding.cause },
        h("strong", null, finding.severity === "error" ? "Error" : "Warning"), " ", finding.text,
        finding.since && ` (since ${utc(finding.since)} UTC) `,
        finding.command && h("div", null, copyable(finding.command)))))),
  ]);
}

/** Whether the page is being changed: to take a field away that has the focus calls its handlers. */
let rendering = false;
let again = false;

function render() {
  if (rendering) {
    again = true;
    return;
  }
  rendering = true;
  draw();
  rendering = false;
  if (again) {
    again = false;
    render();
  }
}

function draw() {
  try {
    renderHealth();
    const first = current.nav ?? current.name;
    const stream = params.get("stream");
    patch(byId("nav"), [h("ul", null, views.filter((view) => !view.nav).map((view) =>
      h("li", { key: view.name }, h("a", {
        href: link(view.name, view === overview || view === functions ? {} : { stream }),
        "aria-current": first === view.name ? "page" : null,
      }, view.title))))]);
    const of = context();
    patch(byId("main"), [
      viewFailure && h("p", { key: "problem", class: "problem", role: "alert", id: "problem" }, viewFailure.kind === "problem"
        ? viewFailure.message : `${viewFailure.message} What is below may be old.`),
      h("div", { key: `view ${current.name}`, id: "view", "data-view": current.name || "overview" }, current.render(of)),
    ]);
    current.shown?.(of);
    byId("clock").textContent = latest ? `${utc(latest.now).slice(0, 19)} UTC` : "";
  } catch (error) {
    console.error(error);
  }
}

byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // The hash names the view.
  byId("main").focus();
});
addEventListener("hashchange", open);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    main.pause();
    own.pause();
  } else {
    void main.run();
    void own.run();
  }
});
open();
void main.run();
