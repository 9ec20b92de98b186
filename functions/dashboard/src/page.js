"use strict";

const refreshMillis = 2000;
const rowsShown = 200;
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const form = document.getElementById("filter");

function cell(row, text, className) {
  const td = row.insertCell();
  td.textContent = text;
  if (className) td.className = className;
}

function showRows(aggregates) {
  const body = document.createElement("tbody");
  body.id = "rows";
  for (const a of aggregates) {
    const row = body.insertRow();
    row.className = a.is_final ? "final" : "live";
    cell(row, a.stream);
    cell(row, a.code);
    cell(row, `${a.window_start.slice(0, 10)} ${a.window_start.slice(11, 19)} – ${a.window_end.slice(11, 19)}`);
    for (const value of [a.avg_vol, a.records, a.min_vol, a.max_vol]) cell(row, number.format(value), "number");
    cell(row, a.is_final ? (a.revision ? `final, revision ${a.revision}` : "final") : "live");
  }
  document.getElementById("rows").replaceWith(body);
}

function showStreams(streams) {
  const list = document.createElement("ul");
  for (const s of streams) {
    const item = document.createElement("li");
    item.textContent = `${s.stream}: watermark ${s.watermark ?? "none yet"} (${s.watermark_held_by}), ` +
      `${s.open_windows} open windows, lag ${s.lag_records}, ${s.rejected_records} rejected, ${s.gaps} gaps`;
    list.append(item);
  }
  document.getElementById("streams").replaceChildren(list);
}

async function read(path) {
  const response = await fetch(path);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error);
  return body;
}

async function refresh() {
  const state = document.getElementById("state");
  try {
    const query = new URLSearchParams(new FormData(form));
    query.set("limit", rowsShown);
    const [aggregates, streams] = await Promise.all([read(`/api/aggregates?${query}`), read("/api/streams")]);
    showRows(aggregates);
    showStreams(streams);
    state.textContent = `${aggregates.length} rows of the last hour, read at ${new Date().toISOString().slice(11, 19)} UTC`;
  } catch (error) {
    state.textContent = `cannot read: ${error.message}`;
  }
}

async function loop() {
  await refresh();
  setTimeout(loop, refreshMillis);
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", refresh);
loop();
