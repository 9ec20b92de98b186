// Elements from descriptions. patch() changes only what differs, by key and position, so that focus,
// scroll, open <details> and what somebody types stay. Text is never read as markup.

/** @typedef {string | number | null | undefined | false | VElement | readonly any[]} Kid what can be a child; lists are taken apart */
/** @typedef {Record<string, any>} Props */
/** @typedef {{tag: string, key: string, props: Props, kids: (VElement | string)[]}} VElement */

const SVG = "http://www.w3.org/2000/svg";
/** @type {WeakMap<Node, VElement>} */
const made = new WeakMap();

/**
 * @param {readonly Kid[]} kids
 * @returns {(VElement | string)[]}
 */
function flat(kids) {
  /** @type {(VElement | string)[]} */
  const out = [];
  for (const kid of kids) {
    if (kid === null || kid === undefined || kid === false) continue;
    if (typeof kid !== "object") out.push(String(kid));
    else if ("tag" in kid) out.push(kid);
    else out.push(...flat(kid));
  }
  return out;
}

/**
 * Describes an element. `on…` are handlers; `own: true` makes its children once only; `key` tells
 * siblings apart.
 * @param {string} tag @param {Props | null} [props] @param {Kid[]} kids @returns {VElement}
 */
export function h(tag, props, ...kids) {
  const { key, ...rest } = props ?? {};
  return { tag, key: key === undefined ? "" : String(key), props: rest, kids: flat(kids) };
}

/** @param {Element} node @param {Props} old @param {Props} next */
function apply(node, old, next) {
  for (const name of new Set([...Object.keys(old), ...Object.keys(next)])) {
    const value = next[name];
    if (value === old[name] || name === "own") continue;
    if (name.startsWith("on")) Reflect.set(node, name, value ?? null);
    else if (name === "value" && "value" in node) Reflect.set(node, name, value ?? "");
    else if (value === null || value === undefined || value === false) node.removeAttribute(name);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
}

/** @param {VElement | string} kid @param {string | null} space @returns {Node} */
function create(kid, space) {
  if (typeof kid === "string") return document.createTextNode(kid);
  const own = kid.tag === "svg" ? SVG : space;
  const node = own ? document.createElementNS(own, kid.tag) : document.createElement(kid.tag);
  for (const child of kid.kids) node.appendChild(create(child, own));
  apply(node, {}, kid.props); // After the children: a select's value needs its options.
  made.set(node, kid);
  return node;
}

/** @param {Node} node @param {VElement | string} kid */
function update(node, kid) {
  if (typeof kid === "string") {
    if (node.nodeValue !== kid) node.nodeValue = kid;
    return;
  }
  const element = /** @type {Element} */ (node);
  const old = made.get(node);
  if (!kid.props.own) patch(element, kid.kids);
  apply(element, old ? old.props : {}, kid.props);
  made.set(node, kid);
}

/** @param {string} tag @param {string} key */
const name = (tag, key) => `${tag} ${key}`;

/** Makes the children of `parent` those that are described. @param {Element} parent @param {Kid[]} kids */
export function patch(parent, kids) {
  const space = parent.namespaceURI === SVG ? SVG : null;
  /** @type {Map<string, Node[]>} */
  const old = new Map();
  for (const node of parent.childNodes) {
    const was = made.get(node);
    const id = was ? name(was.tag, was.key) : node.nodeType === 3 ? "" : name(node.nodeName, "?");
    const same = old.get(id);
    if (same) same.push(node);
    else old.set(id, [node]);
  }
  const next = flat(kids).map((kid) => ({
    kid,
    node: old.get(typeof kid === "string" ? "" : name(kid.tag, kid.key))?.shift(),
  }));
  for (const unused of old.values()) for (const node of unused) parent.removeChild(node);
  let at = parent.firstChild;
  for (const { kid, node } of next) {
    if (node) {
      if (node === at) at = at.nextSibling;
      else parent.insertBefore(node, at);
      update(node, kid);
    } else parent.insertBefore(create(kid, space), at);
  }
}

/** A box that scrolls sideways and can be reached by keyboard. @param {string} label @param {Kid[]} kids */
export function region(label, ...kids) {
  return h("div", { class: "region", role: "region", tabindex: 0, "aria-label": label, key: `region ${label}` }, kids);
}

/**
 * A table in such a box. Cells of a column whose heading starts with "#" are numbers.
 * @param {{id?: string, label: string, head: Kid[], rows: VElement[], none?: string, hideLabel?: boolean}} of
 */
export function table({ id, label, head, rows, none, hideLabel }) {
  return region(
    label,
    h(
      "table",
      { id },
      h("caption", { class: hideLabel ? "unseen" : null }, label),
      h("thead", null, h("tr", null, head.map((cell, i) =>
        typeof cell === "string"
          ? h("th", { scope: "col", key: i, class: cell.startsWith("#") ? "number" : null }, cell.replace(/^#/, ""))
          : cell))),
      h("tbody", null, rows.length > 0 ? rows
        : h("tr", { key: "none", class: "none" }, h("td", { colspan: head.length }, none ?? "None."))),
    ),
  );
}

/** @param {Kid} value @param {Props} [props] */
export const td = (value, props) => h("td", props ?? null, value);
/** @param {Kid} value @param {Props} [props] */
export const num = (value, props) => h("td", { ...props, class: `number ${props?.class ?? ""}`.trim() }, value);
/** @param {Kid} value */
export const th = (value) => h("th", { scope: "row" }, value);

/** A command, and a button that copies it. @param {string} command @param {{code?: string, button?: string}} [ids] */
export function copyable(command, ids = {}) {
  return h("span", { class: "command", key: "command" },
    h("code", { id: ids.code }, command),
    h("button", { id: ids.button, own: true, type: "button", class: "small", "aria-label": `Copy the command ${command}`,
      onclick: (/** @type {MouseEvent} */ event) => void copy(/** @type {HTMLElement} */ (event.currentTarget), command) }, "Copy"));
}

/** @param {HTMLElement} button @param {string} text */
async function copy(button, text) {
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https there is no clipboard: the command is marked instead, to be copied by hand.
    const code = button.previousElementSibling;
    if (code) getSelection()?.selectAllChildren(code);
    done = "Marked";
    if (document.execCommand?.("copy")) done = "Copied";
  }
  button.textContent = done;
  setTimeout(() => (button.textContent = "Copy"), 1500);
}
