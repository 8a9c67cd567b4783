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

/** What the service answers while it is busy, starts, or has no space, and a proxy while the service is away. */
const PASSING = [408, 429, 502, 503, 504, 507];

/**
 * Whether the same request may succeed later.
 * @param {unknown} error
 */
export function passes(error) {
  return error instanceof Unreachable || (error instanceof Problem && PASSING.includes(error.status));
}

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
  throw new Problem({ ...await refusal(response), status: response.status });
}

/**
 * The problem document of a refusal. A proxy may have sent something else.
 * @param {Response} response
 * @returns {Promise<{code: string, detail: string}>}
 */
async function refusal(response) {
  const text = await response.text().catch(() => "");
  const unknown = { code: "unknown", detail: text.slice(0, 200) || `status ${response.status}` };
  try {
    const document = JSON.parse(text);
    return typeof document?.detail === "string" ? { ...unknown, ...document } : unknown;
  } catch {
    return unknown;
  }
}

/**
 * The JSON document of an answer. Raises Unreachable if it was cut off, or is a page that a proxy has sent.
 * @param {Response} response
 * @param {AbortSignal} [signal]
 */
async function documentOf(response, signal) {
  try {
    return await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("the service's answer cannot be read");
  }
}

/**
 * The JSON document of a GET.
 * @param {string} path
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function get(path, signal) {
  return documentOf(await send(path, { signal }), signal);
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
  return response.status === 204 ? null : documentOf(response, options?.signal);
}
