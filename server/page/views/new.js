// The form for a new run or experiment. It asks the service what is wrong and what it costs while it is filled in; its
// entries are in the address.

import { change, get, passes, Problem } from "../api.js";
import { fill, h } from "../dom.js";
import { count } from "../format.js";
import { costText, earlierRuns, timeLike } from "../parts/new/cost.js";
import { entryFields } from "../parts/new/entries.js";
import { fieldAt, fromAddress, fromJob, request, toAddress } from "../parts/new/request.js";
import { sameAs } from "../parts/new/same.js";
import { keysOf } from "../parts/new/schema.js";
import { onceKey, refusal } from "../parts/new/submission.js";
import { link, redraw } from "../route.js";

/**
 * @typedef {import("../parts/new/request.js").Asked} Asked
 * @typedef {import("../parts/new/request.js").Entries} Entries
 * @typedef {import("../parts/new/request.js").FieldProblem} FieldProblem
 */

const TYPING_MS = 300;
const RETRY_MS = 2000;

/** @returns {Promise<import("../parts/new/request.js").Catalogue>} */
async function readCatalogue() {
  const [schema, presets, variants, data] = await Promise.all(
    ["/v1/schemas/config", "/v1/presets", "/v1/variants", "/v1/data"].map((path) => get(path)));
  if (presets.data.length === 0) throw new Problem({ status: 0, code: "no_preset", detail: "The service offers no preset; GAN_MHE_PRESETS names them." });
  return { schema, keys: keysOf(schema), presets: presets.data, variants: variants.data, data };
}

/**
 * @param {URLSearchParams} query
 * @returns {Promise<import("../main.js").View>}
 */
export async function newRun(query) {
  const from = query.get("from");
  const [catalogue, runs, origin] = await Promise.all([readCatalogue(), earlierRuns(),
    from === null ? null : get(`/v1/jobs/${encodeURIComponent(from)}`)]);
  const entries = origin ? fromJob(origin, catalogue) : fromAddress(query, catalogue);
  const summary = h("div", { role: "status", class: "new-summary" });
  const button = h("button", { class: "primary" }, "Submit");
  const failure = h("p", { class: "bad", role: "alert" });
  const same = sameAs(catalogue);
  const fields = entryFields(catalogue, entries, changed);

  /** @type {Asked | null} */
  let accepted = null;
  let key = onceKey();
  let timer = 0;
  let asking = new AbortController();
  let gone = false;

  function changed() {
    history.replaceState(null, "", toAddress(entries));
    key = onceKey();
    failure.textContent = "";
    check(TYPING_MS);
  }

  /** Ask the service after a pause; an older question does not count any more. @param {number} pause */
  function check(pause) {
    clearTimeout(timer);
    asking.abort();
    accepted = null;
    button.disabled = true;
    const { asked, problems } = request(entries, catalogue);
    button.textContent = asked && asked.jobs > 1 ? `Submit ${count(asked.jobs)} runs` : "Submit run";
    same.show(asked);
    if (asked === null) tell(problems, []);
    else timer = setTimeout(ask, pause, asked);
  }

  /** @param {Asked} asked */
  async function ask(asked) {
    const mine = asking = new AbortController();
    try {
      const { estimate } = await change("POST", `${asked.path}?dry_run=true`, asked.body, { signal: mine.signal });
      tell([], [what(asked), costText(asked, estimate, timeLike(asked, estimate, runs, catalogue))]);
      accepted = asked;
      button.disabled = false;
    } catch (error) {
      if (!mine.signal.aborted) refused(/** @type {Error} */ (error), asked);
    }
  }

  /**
   * @param {Error} error
   * @param {Asked} asked
   */
  function refused(error, asked) {
    if (error instanceof Problem && error.status === 401) redraw(); // it asks for the key; the address keeps the entries
    if (!(error instanceof Problem) && !passes(error)) throw error;
    const errors = error instanceof Problem ? error.errors : [];
    tell(errors.length ? errors : [{ pointer: "", message: refusal(error) }], [what(asked)]);
    if (passes(error)) timer = setTimeout(check, RETRY_MS, 0);
  }

  /**
   * Show each problem at its field, and the others together.
   * @param {FieldProblem[]} problems
   * @param {any[]} more
   */
  function tell(problems, more) {
    const others = fields.say(problems.map(({ pointer, message }) => ({ field: fieldAt(pointer, entries), message })));
    const wrong = problems.length - others.length;
    const now = h("div", {}, ...more,
      wrong > 0 && h("p", { class: "bad" }, `✗ ${wrong === 1 ? "One entry" : `${wrong} entries`} to correct.`),
      others.length > 0 && h("ul", { class: "new-error" }, others.map((message) => h("li", {}, `✗ ${message}`))));
    if (!summary.firstChild?.isEqualNode(now)) fill(summary, now); // a screen reader reads what is set
  }

  /** @param {SubmitEvent} event */
  async function submit(event) {
    event.preventDefault();
    if (accepted === null) return;
    const asked = accepted;
    const { path, body } = asked;
    button.disabled = true;
    failure.textContent = "";
    try {
      const { id } = await change("POST", path, body, { headers: { "Idempotency-Key": key } });
      if (!gone) location.hash = link([path === "/v1/jobs" ? "jobs" : "experiments", id]);
    } catch (error) {
      if (error instanceof Problem && error.errors.length) refused(error, asked);
      else failure.textContent = refusal(/** @type {Error} */ (error));
      button.disabled = accepted === null;
    }
  }

  if (origin) history.replaceState(null, "", toAddress(entries));
  check(0);
  const element = h("article", { class: "new" }, h("h1", {}, "New run"),
    origin && h("p", { class: "muted" }, "Like ", h("a", { href: link(["jobs", origin.id]) }, origin.name ?? origin.id),
      ": change what should differ."),
    h("form", { class: "new-form", onsubmit: submit, novalidate: true }, h("div", {}, fields.element),
      h("section", { class: "new-panel", "aria-label": "Submission" }, h("h2", {}, "Submission"), summary, button, failure)),
    same.element);
  return { title: "New run", element, destroy: () => {
    gone = true;
    clearTimeout(timer);
    asking.abort();
  } };
}

/** What would be submitted. @param {Asked} asked */
function what({ jobs, factors }) {
  const strong = (/** @type {string} */ text) => h("strong", {}, text);
  if (factors.length === 0) return h("p", {}, strong("One run."));
  return h("p", {}, "An experiment of ", strong(jobs === 1 ? "one run" : `${count(jobs)} runs`), `: ${factors.join(" × ")}.`);
}
