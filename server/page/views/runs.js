// The table of runs: filtered and ordered by the address, a page at a time.

import { address, change, get } from "../api.js";
import { fill, h } from "../dom.js";
import { ago, count, number, recipe } from "../format.js";
import { agreed } from "../parts/actions.js";
import { welcome } from "../parts/new/demo.js";
import { poll } from "../parts/poll.js";
import { progressBar } from "../parts/progress.js";
import { stateMark } from "../parts/state.js";
import { link } from "../route.js";

const PAGE_ROWS = 50;
const STATES = ["queued", "starting", "running", "pausing", "paused", "recovering", "cancelling", "succeeded", "failed",
  "cancelled"];

/**
 * @param {URLSearchParams} query
 * @returns {Promise<import("../main.js").View>}
 */
export async function runs(query) {
  /** @type {Set<string>} */
  const selected = new Set();
  const body = h("tbody");
  const note = h("p", { role: "status", class: "muted" });
  const pages = h("p", { class: "row" });
  const actions = h("div", { class: "row", role: "group", "aria-label": "Actions for the selected runs", tabindex: -1 });
  let turn = 0;
  let acting = false;

  async function refresh() {
    const mine = ++turn;
    const page = await get(`/v1/jobs?${parameters(query)}`);
    if (mine !== turn) return; // asked again meanwhile: that answer is newer
    fill(body, page.data.map((/** @type {any} */ job) => row(job, selected, drawActions)));
    fill(pages, ...pageLinks(query, page));
    if (page.data.length === 0) fill(body, h("tr", {}, h("td", { colspan: 9 }, ...nothing())));
    const unused = page.data.length === 0 && [...query.keys()].length === 0;
    if (unused !== list.hidden) fill(first, unused && welcome());
    list.hidden = unused;
  }

  function drawActions() {
    const chosen = [...selected];
    const none = chosen.length === 0;
    fill(actions, h("span", {}, none ? "Select runs to compare them or act on them." : `${chosen.length} selected`),
      h("button", { type: "button", disabled: none, onclick: () => {
        location.hash = link(["compare"], new URLSearchParams(chosen.map((id) => ["job", id])));
      } }, "compare"),
      ["pause", "resume", "retry", "cancel", "delete"].map((name) =>
        h("button", { type: "button", disabled: none, onclick: () => act(name, chosen) }, name)));
  }

  /**
   * @param {string} action
   * @param {string[]} ids
   */
  async function act(action, ids) {
    if (acting || !agreed(action, ids.length)) return;
    acting = true;
    try {
      const { data } = await change("POST", "/v1/jobs:batch", { action, ids });
      selected.clear();
      note.textContent = outcome(action, data);
      await refresh();
    } catch (error) {
      note.textContent = /** @type {Error} */ (error).message;
    }
    acting = false;
    drawActions();
  }

  const first = h("div");
  const list = h("div", {}, filters(query), actions, note, h("div", { class: "table" }, h("table", {}, heading(), body)), pages);
  await refresh();
  drawActions();
  const stop = poll(async () => {
    await refresh();
    return true; // others may submit runs
  });
  return { title: "Runs", element: h("div", {}, h("h1", {}, "Runs"), first, list), destroy: stop };
}

/**
 * What became of an action: refusals for the same reason are counted, not repeated.
 * @param {string} action
 * @param {{id: string, ok: boolean, problem: any}[]} answers
 */
function outcome(action, answers) {
  /** @type {Map<string, number>} */
  const reasons = new Map();
  for (const { id, ok, problem } of answers) {
    if (ok) continue;
    const reason = problem.detail.replace(id, "it");
    reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
  }
  const refused = [...reasons].map(([reason, count]) => `; ${count} refused: ${reason}`);
  return `${action}: ${answers.filter(({ ok }) => ok).length} done${refused.join("")}`;
}

/** @param {URLSearchParams} query */
function parameters(query) {
  const sent = new URLSearchParams({ limit: String(PAGE_ROWS) });
  for (const name of ["state", "variant", "name", "order", "cursor"]) {
    const value = query.get(name);
    if (value) sent.set(name, value);
  }
  return sent;
}

/** @param {URLSearchParams} query */
function filters(query) {
  /** @param {SubmitEvent} event */
  function submit(event) {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
    /** @type {Record<string, string>} */
    const chosen = {};
    for (const [name, value] of form) if (value) chosen[name] = String(value);
    location.hash = link([], chosen);
  }

  const option = (/** @type {string} */ value, /** @type {string} */ text, /** @type {string | null} */ now) =>
    h("option", { value, selected: value === (now ?? "") }, text);
  return h("form", { class: "row", onsubmit: submit, "aria-label": "Filters" },
    h("label", {}, "State ", h("select", { name: "state" }, option("", "any", query.get("state")),
      STATES.map((state) => option(state, state, query.get("state"))))),
    h("label", {}, "Variant ", h("input", { name: "variant", size: 14, value: query.get("variant") ?? "" })),
    h("label", {}, "Name contains ", h("input", { name: "name", size: 14, value: query.get("name") ?? "" })),
    h("label", {}, "Order ", h("select", { name: "order" }, option("", "newest first", query.get("order")),
      option("asc", "oldest first", query.get("order")))),
    h("button", {}, "Show"));
}

function heading() {
  return h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Select"),
    h("th", { scope: "col" }, "Grid"), h("th", { scope: "col" }, "Run"), h("th", { scope: "col" }, "State"),
    h("th", { scope: "col" }, "Progress"), h("th", { scope: "col", class: "n" }, "Last score"),
    h("th", { scope: "col", class: "n" }, "Best score"), h("th", { scope: "col", class: "wide" }, "Protocol"),
    h("th", { scope: "col", class: "wide" }, "Created")));
}

/**
 * @param {any} job
 * @param {Set<string>} selected
 * @param {() => void} onSelect
 */
function row(job, selected, onSelect) {
  const label = job.name ?? job.id;
  const choose = h("input", { type: "checkbox", value: job.id, "aria-label": `Select ${label}, ${recipe(job)}`, checked: selected.has(job.id),
    onchange: () => {
      if (choose.checked) selected.add(job.id);
      else selected.delete(job.id);
      onSelect();
    } });
  return h("tr", {},
    h("td", {}, choose),
    h("td", {}, thumbnail(job)),
    h("td", { class: "name" }, h("a", { href: link(["jobs", job.id]) }, label), h("br"),
      h("span", { class: "muted" }, recipe(job))),
    h("td", {}, stateMark(job)),
    h("td", {}, progressBar(job.progress)),
    h("td", { class: "n" }, job.metric ? number(job.metric.latest) : "–"),
    h("td", { class: "n" }, best(job)),
    h("td", { class: "wide" }, job.config.evaluation?.protocol ?? "–"),
    h("td", { class: "wide" }, ago(job.created_at)));
}

/** @param {any} job */
function best(job) {
  if (!job.metric || job.metric.best === null) return "–";
  return `${number(job.metric.best)} at ${count(job.metric.best_step)}`;
}

/** The newest grid, small. @param {any} job */
function thumbnail(job) {
  if (!job.newest_sample) return h("span", { class: "thumb" });
  return h("img", { class: "thumb", alt: `newest samples of ${job.name ?? job.id}`, loading: "lazy", width: 56, height: 56,
    src: address(`${job.newest_sample.links.thumbnail}&width=64`) });
}

/**
 * @param {URLSearchParams} query
 * @param {any} page
 */
function pageLinks(query, page) {
  const first = new URLSearchParams(query);
  first.delete("cursor");
  const next = new URLSearchParams(query);
  next.set("cursor", page.next_cursor ?? "");
  return [query.get("cursor") && h("a", { href: link([], first) }, "First page"),
    page.has_more && h("a", { href: link([], next) }, "Next page")];
}

function nothing() {
  return ["No run matches. ", h("a", { href: "#/" }, "Show all")];
}
