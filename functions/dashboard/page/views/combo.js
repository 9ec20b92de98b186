// A field that finds codes: an ARIA combobox with a list.
import { codes as codesOf } from "../api.js";
import { h } from "../dom.js";

const DEBOUNCE_MS = 150;

let text = "";
/** @type {string[]} */
let found = [];
let active = -1;
let open = false;
let asked = 0;
let note = "";
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

/** Forgets what was typed. */
export function reset() {
  clearTimeout(timer);
  asked += 1;
  text = note = "";
  found = [];
  active = -1;
  open = false;
}

/**
 * @param {{stream: string, chosen: string[], most: number, choose(code: string): void, render(): void}} of
 */
export function combo({ stream, chosen, most, choose, render }) {
  const full = chosen.length >= most;
  async function ask() {
    const mine = ++asked;
    try {
      const answer = await codesOf({ stream, search: text, limit: 50 });
      if (mine !== asked) return;
      found = answer;
      note = found.length === 0 ? "No code has this in it." : `${found.length} codes found.`;
    } catch (error) {
      if (mine !== asked) return;
      found = [];
      note = error instanceof Error ? error.message : "";
    }
    active = -1;
    open = true;
    render();
  }
  /** @param {string} code */
  function take(code) {
    reset();
    choose(code);
    render();
  }
  /** @param {KeyboardEvent} event */
  function key(event) {
    if (event.isComposing) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) return void ask();
      const step = event.key === "ArrowDown" ? 1 : -1;
      active = found.length === 0 ? -1 : active < 0 ? (step > 0 ? 0 : found.length - 1) : (active + step + found.length) % found.length;
    } else if (event.key === "Enter") {
      event.preventDefault();
      const code = found[active] ?? (found.includes(text) ? text : found.length === 1 ? found[0] : undefined);
      if (open && code !== undefined) return take(code);
      if (!open || found.length === 0) return void ask();
    } else if (event.key === "Escape") {
      if (open) open = false;
      else text = "";
    } else return;
    render();
    document.getElementById(`code-${active}`)?.scrollIntoView({ block: "nearest" });
  }
  return h("div", { class: "labelled combo", key: "combo" },
    h("label", { for: "code", id: "code-label" }, "Add a code"),
    h("input", {
      id: "code", role: "combobox", type: "text", autocomplete: "off", spellcheck: "false", "aria-expanded": String(open), "aria-controls": "codes",
      "aria-autocomplete": "list", "aria-activedescendant": open && active >= 0 ? `code-${active}` : null, value: text, disabled: full,
      placeholder: full ? `${most} at the most` : "search",
      oninput: (/** @type {Event} */ event) => {
        text = /** @type {HTMLInputElement} */ (event.target).value;
        clearTimeout(timer);
        timer = setTimeout(() => void ask(), DEBOUNCE_MS);
      },
      onfocus: () => { if (!open) void ask(); },
      onblur: () => { open = false; render(); },
      onkeydown: key,
    }),
    h("ul", { id: "codes", role: "listbox", "aria-labelledby": "code-label", hidden: !open || found.length === 0 }, found.map((code, i) =>
      h("li", {
        key: code, id: `code-${i}`, role: "option", "aria-selected": String(i === active),
        // Before the field loses the focus.
        onmousedown: (/** @type {MouseEvent} */ event) => { event.preventDefault(); take(code); },
      }, code, chosen.includes(code) && " (shown)"))),
    h("span", { role: "status", class: open && found.length === 0 ? "note" : "unseen" }, open ? note : ""));
}
