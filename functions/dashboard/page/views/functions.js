// What each function does and what it costs.
import { h, num, table, td } from "../dom.js";
import { bytes, clip, count, duration, millis, rate, short } from "../format.js";
import { hostsTable } from "./hosts.js";

/** @typedef {import("../api.js").Stage} Stage */

/** @param {Stage} stage */
const versions = (stage) => stage.versions.length === 0 ? "none runs" : stage.versions.map((one) =>
  h("div", { key: one.digest, class: "version" }, h("code", { title: one.digest }, short(one.digest)), ` on ${count(one.hosts)} host${one.hosts === 1 ? "" : "s"}`,
    one.on_trial && h("span", { class: "trial", key: "trial" }, " on trial"),
    one.taken_back !== null && h("div", { class: "reason", key: "back" }, h("span", { class: "back" }, "taken back"), ` ${one.taken_back}`)));

/** @param {number} value */
const counted = (value) => num(count(value), { class: value > 0 ? "bad" : "" });

/** @type {import("../app.js").View} */
export const functions = {
  name: "functions", title: "Functions", every: 0,
  render({ overview, now }) {
    return [
      h("h1", null, "Functions"),
      h("p", { key: "note", class: "note" }, "Counts are since the hosts started; rates and times of calls are of the last 30 seconds."),
      overview === null ? h("p", { key: "wait" }, "Reading …") : [
        table({
          id: "functions", label: "Functions", hideLabel: true, none: "No host runs a function.",
          head: ["Function", "Started by", "State", "Versions", "#Hosts", "#Calls", "#Calls/s", "#Errors", "#Time-outs", "#Half within", "#99 % within", "#Records",
            "#Records/s", "#CPU a record", "#CPU in all", "#Memory", "#PostgreSQL a call", "#Cold starts", "#Refused", "#Dead letters"],
          rows: overview.stages.map((one) => h("tr", { key: one.id, "data-stage": one.id },
            h("th", { scope: "row", class: "nowrap" }, one.component, one.component !== one.id && h("div", { class: "sub" }, one.id)),
            td([one.trigger, h("div", { class: "sub", title: one.what }, clip(one.what, 60))], { class: "code" }),
            td(one.not_ready === null && one.failing === null ? "works" : [
              one.not_ready !== null && h("div", { key: "not", class: "reason" }, h("span", { class: "bad" }, "not ready"), ` ${one.not_ready}`),
              one.failing !== null && h("div", { key: "fails", class: "reason" }, h("span", { class: "bad" }, "failing"), ` ${one.failing}`)]),
            td(versions(one)), num(count(one.hosts)), num(count(one.calls)), num(rate(one.calls_per_second)), counted(one.errors), counted(one.timeouts),
            num(millis(one.p50_ms)), num(millis(one.p99_ms)), num(count(one.records)), num(rate(one.records_per_second)),
            num(one.cpu_us_per_record === null ? "–" : `${Number(one.cpu_us_per_record.toPrecision(3))} µs`), num(duration(one.cpu_seconds)),
            num(bytes(one.memory_bytes)), num(one.calls > 0 ? millis((one.postgres_seconds * 1000) / one.calls) : "–"),
            num(count(one.cold_starts)), counted(one.refused), counted(one.dead_letters))),
        }),
        h("h2", { key: "h hosts" }, "Hosts"),
        hostsTable(overview.hosts, now),
      ],
    ];
  },
};
