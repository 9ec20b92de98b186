import assert from "node:assert/strict";
import { test } from "node:test";
import { address, nextCursor } from "../../../functions/dashboard/page/api.js";
import { changed, link, parse } from "../../../functions/dashboard/page/route.js";

test("a link can be read back, whatever is in it", () => {
  const hostile = "a&b=c#d?e/<f>+ %";
  const { view, params } = parse(link("chart", { stream: hostile, code: ["x", hostile], from: null, to: "" }));
  assert.equal(view, "chart");
  assert.deepEqual([...params], [["stream", hostile], ["code", "x"], ["code", hostile]]);
});

test("an address without anything is the first view", () => {
  for (const hash of ["", "#", "#/"]) assert.equal(parse(hash).view, "");
  assert.equal(link(""), "#/");
});

test("a change keeps the rest", () => {
  const { params } = parse("#/chart?stream=s&code=a&code=b&from=1");
  assert.equal(changed("chart", params, { from: null, to: "2" }), "#/chart?stream=s&code=a&code=b&to=2");
  assert.equal(changed("chart", params, { code: ["a"] }), "#/chart?stream=s&code=a&from=1");
});

test("addresses of the API are relative, without what is not given", () => {
  assert.equal(address("series", { stream: "s&t", code: null, from: "", points: 5 }), "api/series?stream=s%26t&points=5");
  assert.equal(address("overview"), "api/overview");
});

test("the cursor of the next page", () => {
  assert.equal(nextCursor('<aggregates?stream=a&cursor=x%2By>; rel="next"'), "x+y");
  assert.equal(nextCursor('</p/api/rejects?cursor=1>; rel="prev", </p/api/rejects?cursor=2>; rel="next"'), "2");
  assert.equal(nextCursor('<a?cursor=1>; rel="last"'), null);
  assert.equal(nextCursor(null), null);
});
