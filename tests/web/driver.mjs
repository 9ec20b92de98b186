// Drives one Chromium for the end-to-end tests: a command a line of JSON on standard input, its answer on standard output.
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
let context;
let page;
let errors = [];
let bytes = 0;

const commands = {
  /** A new window with nothing kept of the one before. */
  async open({ url, width = 1280, height = 900, scheme = "light", scripts = true }) {
    await context?.close();
    [errors, bytes] = [[], 0];
    context = await browser.newContext({
      viewport: { width, height }, colorScheme: scheme, javaScriptEnabled: scripts, acceptDownloads: true,
    });
    page = await context.newPage();
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("dialog", (dialog) => { errors.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
    const session = await context.newCDPSession(page);
    await session.send("Network.enable");
    session.on("Network.loadingFinished", (event) => { bytes += event.encodedDataLength; });
    await page.goto(url, { waitUntil: "load" });
  },
  async goto({ url }) { await page.goto(url, { waitUntil: "load" }); },
  async text({ selector }) { return page.locator(selector).first().textContent({ timeout: 5000 }); },
  async attribute({ selector, name }) { return page.locator(selector).first().getAttribute(name, { timeout: 5000 }); },
  async count({ selector }) { return page.locator(selector).count(); },
  async click({ selector }) { await page.locator(selector).first().click({ timeout: 5000 }); },
  async fill({ selector, value }) { await page.locator(selector).first().fill(value, { timeout: 5000 }); },
  async press({ key }) { await page.keyboard.press(key); },
  async evaluate({ script }) { return page.evaluate(script); },
  async wait({ selector, text, milliseconds = 10000 }) {
    const locator = page.locator(selector, text === undefined ? {} : { hasText: text });
    await locator.first().waitFor({ state: "attached", timeout: milliseconds });
  },
  async screenshot({ path }) { await page.screenshot({ path, fullPage: true }); },
  /** Rules of axe that are broken and serious, with what breaks them. */
  async axe() {
    await page.evaluate(axe);
    return page.evaluate(async () => {
      const { violations } = await globalThis.axe.run();
      const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
      return serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).slice(0, 3).join(" ")}`);
    });
  },
  async download({ selector }) {
    const [download] = await Promise.all([page.waitForEvent("download"), page.locator(selector).first().click()]);
    return readFile(await download.path(), "utf8");
  },
  /** What went wrong in the window's console so far. */
  async errors() { return errors; },
  async forget() { errors = []; },
  async bytes() { return bytes; },
  async paint() {
    return page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...parameters } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await commands[command](parameters)) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
