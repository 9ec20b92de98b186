import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { Validator } from "@seriousme/openapi-schema-validator";

const of = (/** @type {string} */ path) => new URL(path, import.meta.url);

test("the API's document is one of OpenAPI 3.1", async () => {
  const text = await readFile(of("../../../functions/dashboard/src/openapi.json"), "utf8");
  const { valid, errors } = await new Validator().validate(JSON.parse(text));
  assert.ok(valid, JSON.stringify(errors));
  assert.equal(JSON.parse(text).openapi, "3.1.0");
});

test("the chart library is the registry's own file", async () => {
  const page = "../../../functions/dashboard/page/uplot";
  for (const [ours, theirs] of [["uPlot.iife.min.js", "dist/uPlot.iife.min.js"], ["uPlot.min.css", "dist/uPlot.min.css"], ["LICENSE", "LICENSE"]]) {
    assert.deepEqual(await readFile(of(`${page}/${ours}`)), await readFile(of(`../node_modules/uplot/${theirs}`)), ours);
  }
});
