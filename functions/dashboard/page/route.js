// Addresses of views: all that a view shows stands in the hash, so that it can be shared.

/** @typedef {Record<string, string | number | string[] | null | undefined>} Params */

/** @param {string} hash @returns {{view: string, params: URLSearchParams}} */
export function parse(hash) {
  const text = hash.replace(/^#?\/?/, "");
  const cut = text.indexOf("?");
  return cut < 0
    ? { view: text, params: new URLSearchParams() }
    : { view: text.slice(0, cut), params: new URLSearchParams(text.slice(cut + 1)) };
}

/** @param {string} view @param {Params} [params] */
export function link(view, params = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") search.append(name, String(one));
    }
  }
  const text = search.toString();
  return `#/${view}${text ? `?${text}` : ""}`;
}

/** The same view with some of its parameters changed. @param {string} view @param {URLSearchParams} params @param {Params} change */
export function changed(view, params, change) {
  /** @type {Record<string, string[]>} */
  const all = {};
  for (const name of params.keys()) all[name] = params.getAll(name);
  return link(view, { ...all, ...change });
}
