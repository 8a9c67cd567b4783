// The REST API. Addresses are relative to the page, so that it works behind a path prefix.

/** @typedef {{pointer: string, message: string}} FieldProblem What is wrong at a JSON pointer into the request's body. */

/** A refusal of the service: its problem document. */
export class Problem extends Error {
  /** @param {{status: number, code: string, detail: string, errors?: FieldProblem[]}} document */
  constructor(document) {
    super(document.detail);
    this.status = document.status;
    this.code = document.code;
    this.errors = document.errors ?? [];
  }
}

/** The service does not answer: it is stopped, or the network is. */
export class Unreachable extends Error {}

/**
 * The address of an API path such as "/v1/jobs".
 * @param {string} path
 * @returns {string}
 */
export function address(path) {
  return new URL(path.replace(/^\//, ""), document.baseURI.split("#")[0]).href;
}

/**
 * @param {string} path
 * @param {{method?: string, body?: any, signal?: AbortSignal, headers?: Record<string, string>}} [options]
 * @returns {Promise<Response>}
 */
async function send(path, { method = "GET", body, signal, headers } = {}) {
  let response;
  try {
    response = await fetch(address(path), {
      method, signal, credentials: "same-origin",
      headers: { ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("the service does not answer");
  }
  if (response.ok) return response;
  const text = await response.text();
  let document = { status: response.status, code: "unknown", detail: text.slice(0, 200) || `status ${response.status}` };
  try {
    document = { ...document, ...JSON.parse(text) };
  } catch { /* a proxy's page, not ours */ }
  throw new Problem(document);
}

/**
 * The JSON document of a GET.
 * @param {string} path
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function get(path, signal) {
  return (await send(path, { signal })).json();
}

/**
 * The JSON document that answers a change, null if there is none.
 * @param {"POST" | "PATCH" | "DELETE"} method
 * @param {string} path
 * @param {any} [body]
 * @param {{headers?: Record<string, string>, signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export async function change(method, path, body, options) {
  const response = await send(path, { method, body, ...options });
  return response.status === 204 ? null : response.json();
}
