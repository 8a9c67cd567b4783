// The view lies in the part of the address behind "#": "#/jobs/JOB?step=400". It can be copied, and needs no route of
// the server.

/** @typedef {{parts: string[], query: URLSearchParams}} Route */

/** @returns {Route} */
export function current() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

/** A part as it was before it was encoded; as it is, if an address that was cut off ends within a character. @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
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
