// The page: chooses the view by the address, and shows what stops a view from being shown.

import { Problem, Unreachable } from "./api.js";
import { fill, h } from "./dom.js";
import { current } from "./route.js";
import { compare } from "./views/compare.js";
import { experiment } from "./views/experiment.js";
import { experiments } from "./views/experiments.js";
import { job } from "./views/job.js";
import { login } from "./views/login.js";
import { newRun } from "./views/new.js";
import { runs } from "./views/runs.js";

/** @typedef {{title: string, element: Element, destroy?: () => void}} View */

const RETRY_MS = 2000;
const main = /** @type {HTMLElement} */ (document.getElementById("main"));
const connection = /** @type {HTMLElement} */ (document.getElementById("connection"));

/** @type {View | null} */
let shown = null;
let shownAt = "";
let turn = 0;

/**
 * Say in the header whether the service is heard.
 * @param {string} text
 */
export function connected(text) {
  if (connection.textContent !== text) connection.textContent = text;
}

/** @returns {Promise<View>} */
function make() {
  const { parts, query } = current();
  if (parts[0] === "jobs" && parts[1]) return job(parts[1], query, connected);
  if (parts[0] === "compare") return compare(query);
  if (parts[0] === "experiments") return parts[1] ? experiment(parts[1], query) : experiments(query);
  if (parts[0] === "new") return newRun(query);
  if (parts.length === 0) return runs(query);
  return Promise.reject(new Problem({ status: 404, code: "no_view", detail: "there is no such view" }));
}

async function show() {
  const mine = ++turn;
  shown?.destroy?.();
  shown = null;
  connected("");
  try {
    const view = await make();
    if (mine !== turn) {
      view.destroy?.();
      return;
    }
    shown = view;
    place(view.title, view.element);
  } catch (error) {
    if (mine === turn) trouble(/** @type {Error} */ (error));
  }
}

/**
 * @param {string} title
 * @param {Element} element
 */
function place(title, element) {
  document.title = `${title} · gan-mhe`;
  const first = shownAt === "";
  shownAt = location.hash;
  fill(main, element);
  if (!first) main.focus({ preventScroll: true });
}

/** @param {Error} error */
function trouble(error) {
  if (error instanceof Problem && error.status === 401) {
    place("Sign in", login(error.message, show));
    return;
  }
  place("Not shown", h("div", {},
    h("h1", {}, error instanceof Problem && error.status === 404 ? "Not found" : "Not shown"),
    h("p", { class: "note error", role: "alert" }, error.message),
    h("p", {}, h("a", { href: "#/" }, "All runs"))));
  if (error instanceof Unreachable) {
    connected("reconnecting …");
    setTimeout(show, RETRY_MS);
  } else if (!(error instanceof Problem)) {
    throw error;
  }
}

addEventListener("hashchange", show);
show();
