// The page: chooses the view by the address, and shows what stops a view from being shown.

import { passes, Problem } from "./api.js";
import { connected, RECONNECTING } from "./connection.js";
import { fill, h } from "./dom.js";
import { current } from "./route.js";
import { signedIn, signOut } from "./session.js";
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
const leave = /** @type {HTMLElement} */ (document.getElementById("sign-out"));
const links = /** @type {NodeListOf<HTMLAnchorElement>} */ (document.querySelectorAll("nav a"));

/** @type {View | null} */
let shown = null;
/** @type {string | null} the path of the view on the page; null before the first */
let shownAt = null;
let turn = 0;
let timer = 0;
/** The message that stands in place of the view. */
let said = "";

/** @returns {Promise<View>} */
function make() {
  const { parts, query } = current();
  if (parts[0] === "jobs" && parts[1]) return job(parts[1], query);
  if (parts[0] === "compare") return compare(query);
  if (parts[0] === "experiments") return parts[1] ? experiment(parts[1], query) : experiments(query);
  if (parts[0] === "new") return newRun(query);
  if (parts.length === 0) return runs(query);
  return Promise.reject(new Problem({ status: 404, code: "no_view", detail: "there is no such view" }));
}

/** @param {boolean} [repeated] whether this view could not be shown a moment ago */
async function show(repeated = false) {
  const mine = ++turn;
  clearTimeout(timer);
  shown?.destroy?.();
  shown = null;
  if (!repeated) said = "";
  try {
    const view = await make();
    if (mine !== turn) {
      view.destroy?.();
      return;
    }
    shown = view;
    said = "";
    connected("");
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
  const { parts } = current();
  const [before, path] = [shownAt, parts.join("/")];
  shownAt = path;
  fill(main, element);
  mark(parts);
  leave.hidden = !signedIn();
  if (before === null) return;
  if (before !== path) scrollTo(0, 0);
  if (before !== path || document.activeElement === document.body) main.focus({ preventScroll: true });
}

/** Mark the link of the view that is shown; a run belongs to the runs. @param {string[]} parts */
function mark([first = "", second]) {
  const own = `#/${first === "jobs" ? "" : first}`;
  for (const each of links) {
    if (each.getAttribute("href") === own) each.setAttribute("aria-current", second ? "true" : "page");
    else each.removeAttribute("aria-current");
  }
}

/** @param {Error} error */
function trouble(error) {
  if (error instanceof Problem && error.status === 401) {
    connected("");
    place("Sign in", login(error.message, () => show()));
    return;
  }
  connected(passes(error) ? RECONNECTING : "");
  if (said !== error.message) place("Not shown", refused(error)); // said once, not at every try
  said = error.message;
  if (passes(error)) timer = setTimeout(show, RETRY_MS, true);
  else if (!(error instanceof Problem)) throw error;
}

/** @param {Error} error */
function refused(error) {
  return h("div", {},
    h("h1", {}, error instanceof Problem && error.status === 404 ? "Not found" : "Not shown"),
    h("p", { class: "note error", role: "alert" }, error.message),
    h("p", {}, h("a", { href: "#/" }, "All runs")));
}

leave.addEventListener("click", () => signOut().then(() => show(), trouble));
addEventListener("hashchange", () => show());
show();
