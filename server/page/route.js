// The view lies in the part of the address behind "#": "#/jobs/JOB?step=400". It can be copied, and needs no route of
// the server.

/** @typedef {{parts: string[], query: URLSearchParams}} Route */

/** @returns {Route} */
export function current() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

/** A part of an address that was typed may be no encoding of anything: it is taken as it is. @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Draw the present view anew, as if its address had just been entered. */
export function redraw() {
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/**
 * The training step in an address; null if there is none, or what is there is no step.
 * @param {URLSearchParams} query
 * @returns {number | null}
 */
export function stepOf(query) {
  const text = query.get("step") ?? "";
  return /^\d+$/.test(text) ? Number(text) : null;
}

/**
 * The address of a view.
 * @param {string[]} parts
 * @param {URLSearchParams | Record<string, string>} [query]
 * @returns {string}
 */
export function link(parts, query = {}) {
  const text = new URLSearchParams(query).toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

/**
 * Change the query of the present view without drawing it anew; null removes a key.
 * @param {Record<string, string | number | null>} changes
 */
export function note(changes) {
  const { parts, query } = current();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") query.delete(name);
    else query.set(name, String(value));
  }
  history.replaceState(null, "", link(parts, query));
}
