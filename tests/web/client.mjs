// Calls each route of the API by a client whose types are generated from its document, and holds each answer against it.
// Arguments: the address of a dashboard that has rows, windows and rejects of the stream.
import { Ajv2020 } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import createClient from "openapi-fetch";

const [base = "", stream = ""] = process.argv.slice(2);
const client = /** @type {import("openapi-fetch").Client<import("./generated/api.js").paths>} */ (createClient({ baseUrl: base }));
/** @type {string[]} */
const problems = [];
const document = await (await fetch(`${base}/api/openapi.json`)).json();
const ajv = new Ajv2020({ strict: false, allErrors: true });
addFormats.default(ajv);
ajv.addSchema({ $id: "api", ...document });
/** @type {Set<string>} */
const called = new Set();

/** @typedef {{data?: unknown, error?: unknown, response: Response}} Answered */

/**
 * Holds an answer against what the document says of its route and status.
 * @param {string} path @param {Answered} answer
 */
function check(path, { data, error, response }, status = 200) {
  called.add(path);
  if (response.status !== status) {
    problems.push(`${path}: ${response.status} instead of ${status}: ${JSON.stringify(error)}`);
    return;
  }
  const type = status === 200 ? "application/json" : "application/problem+json";
  const place = `api#/paths/${path.replaceAll("/", "~1")}/get/responses/${status}/content/${type.replace("/", "~1")}/schema`;
  const isValid = ajv.getSchema(place);
  if (!isValid) problems.push(`${path}: the document has no ${type} for ${status}`);
  else if (!isValid(status === 200 ? data : error)) problems.push(`${path}: ${ajv.errorsText(isValid.errors)}`);
}

const query = { stream };
const rows = await client.GET("/api/aggregates", { params: { query: { stream, limit: 2 } } });
check("/api/aggregates", rows);
const row = rows.data?.[0];
if (typeof row !== "object") throw new Error("there are no rows to ask for");
check("/api/overview", await client.GET("/api/overview"));
check("/api/health", await client.GET("/api/health"));
check("/api/streams", await client.GET("/api/streams"));
check("/api/stages", await client.GET("/api/stages"));
check("/api/hosts", await client.GET("/api/hosts"));
check("/api/series", await client.GET("/api/series", { params: { query: { stream, code: row.code, points: 10 } } }));
check("/api/codes", await client.GET("/api/codes", { params: { query: { stream, search: row.code } } }));
check("/api/windows", await client.GET("/api/windows", { params: { query } }));
const { window_start: start, window_end: end, code } = row;
check("/api/window", await client.GET("/api/window", { params: { query: { stream, start, end } } }));
check("/api/window", await client.GET("/api/window", { params: { query: { stream, start, end, code } } }));
const rejects = await client.GET("/api/rejects", { params: { query: { stream, limit: 1 } } });
check("/api/rejects", rejects);
check("/api/rejects/summary", await client.GET("/api/rejects/summary", { params: { query } }));
check("/api/openapi.json", await client.GET("/api/openapi.json"));

// Pages, forms and refusals.
const next = /<([^>]+)>; rel="next"/.exec(rows.response.headers.get("link") ?? "")?.[1];
if (next) check("/api/aggregates", await answered(`${base}/api/${next}`));
else problems.push("two rows of more have no next page");
if (rejects.data?.length !== 1) problems.push("there is no reject");
check("/api/aggregates", await client.GET("/api/aggregates", { params: { query: { stream, limit: 0 } } }), 400);
check("/api/series", await client.GET("/api/series", { params: { query: { stream: "none of it", code } } }), 404);
const csv = await client.GET("/api/aggregates", { params: { query: { format: "csv" } }, parseAs: "text" });
if (!String(csv.data).startsWith("stream,code,")) problems.push(`CSV begins with ${String(csv.data).slice(0, 40)}`);
const tag = (await fetch(`${base}/api/openapi.json`)).headers.get("etag") ?? "";
const again = await fetch(`${base}/api/openapi.json`, { headers: { "if-none-match": tag } });
if (again.status !== 304) problems.push(`what the client has is sent again: ${again.status}`);

/** @param {string} url @returns {Promise<Answered>} */
async function answered(url) {
  const response = await fetch(url);
  return { data: await response.json(), response };
}

for (const path of Object.keys(document.paths)) if (!called.has(path)) problems.push(`${path} is not called`);
for (const problem of problems) console.error(problem);
process.exitCode = problems.length === 0 ? 0 : 1;
