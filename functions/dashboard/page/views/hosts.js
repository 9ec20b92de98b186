// The hosts, as both the overview and the functions show them.
import { h, num, table, td } from "../dom.js";
import { bytes, clip, duration, parse, utc } from "../format.js";

/** @param {import("../api.js").Host[]} hosts @param {number} now */
export function hostsTable(hosts, now) {
  return table({
    id: "hosts", label: "Hosts", hideLabel: true, none: "No host has written of itself.",
    head: ["Host", "State", "#Memory", "#Budget", "#Processor", "Clock", "Stages", "Started", "Last heard of"],
    rows: hosts.map((host) => h("tr", { key: host.host, "data-host": host.host, class: `host ${host.state}` },
      h("th", { scope: "row", title: `${host.name} ${host.host}` }, clip(host.name, 60), h("div", { class: "sub" }, clip(host.host, 40))),
      td([h("span", { class: `state ${host.state}` }, host.state.replace("-", " ")), host.reasons.map((reason) => h("div", { class: "reason" }, reason))]),
      num(bytes(host.memory_bytes)), num(bytes(host.memory_budget_bytes)), num(`${host.cpu_percent.toFixed(1)} %`),
      td(clockText(host.clock_ahead_seconds)), td(host.stages.join(", "), { class: "stages" }), td(utc(host.started_at).slice(0, 19), { class: "nowrap" }),
      td(`${duration(Math.max(0, Math.round((now - (parse(host.seen_at) ?? now)) / 1000)))} ago`, { class: "nowrap" }))),
  });
}

/** @param {number | null} ahead */
function clockText(ahead) {
  if (ahead === null) return "unknown";
  if (Math.abs(ahead) < 0.05) return "right";
  return `${duration(Math.abs(ahead))} ${ahead > 0 ? "ahead" : "late"}`;
}

