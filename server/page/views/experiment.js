// One experiment: what it varies, its runs cell by cell, and their comparison, live while they run.

import { change, get } from "../api.js";
import { fill, h } from "../dom.js";
import { ago, count, number, valueText } from "../format.js";
import { comparison } from "../parts/compare/comparison.js";
import { baseText, endedOf, states, swept } from "../parts/experiment_facts.js";
import { poll } from "../parts/poll.js";
import { progressBar } from "../parts/progress.js";
import { MOST_RUNS, ofExperiment } from "../parts/compare/selection.js";
import { stateMark } from "../parts/state.js";
import { link } from "../route.js";

/**
 * @param {string} id
 * @param {URLSearchParams} query
 * @returns {Promise<import("../main.js").View>}
 */
export async function experiment(id, query) {
  const path = `/v1/experiments/${encodeURIComponent(id)}`;
  const source = ofExperiment(id);
  let [known, { jobs, left }] = await Promise.all([get(path), source.load()]);
  const head = h("header", { tabindex: -1 });
  const answer = h("p", { role: "alert", class: "bad" });
  const body = h("tbody");
  const keys = Object.keys(known.matrix);
  const compared = jobs.length > 0 ? comparison(jobs, query) : null;

  let turn = 0;
  let cancelling = false;

  function draw() {
    fill(head, ...heading(known), !known.terminal && h("div", { class: "row", role: "group", "aria-label": "Actions" },
      h("button", { type: "button", onclick: cancel }, "cancel all")));
    fill(body, jobs.map((/** @type {any} */ job) => cellRow(job, keys)));
  }

  async function cancel() {
    if (cancelling || !confirm(`Cancel the ${known.total - endedOf(known.counts)} runs that have not ended?`)) return;
    answer.textContent = "";
    cancelling = true;
    try {
      await change("POST", `${path}/cancel`);
      await refresh();
    } catch (error) {
      answer.textContent = /** @type {Error} */ (error).message;
    }
    cancelling = false;
  }

  /** @returns {Promise<boolean>} whether runs go on */
  async function refresh() {
    const mine = ++turn;
    const [experiment, loaded] = await Promise.all([get(path), source.load()]);
    if (mine !== turn) return true; // asked again meanwhile: that answer is newer
    [known, { jobs }] = [experiment, loaded];
    draw();
    await compared?.update(jobs);
    return !known.terminal;
  }

  draw();
  const element = h("article", {}, h("p", {}, h("a", { href: "#/experiments" }, "All experiments")), head, answer,
    h("section", { "aria-label": "Runs" }, h("h2", {}, "Runs"),
      left && h("p", { class: "note" }, `Only the first ${MOST_RUNS} of ${known.total} runs are shown and compared.`),
      jobs.length === 0 ? h("p", { class: "muted" }, "All its runs were deleted.")
        : h("div", { class: "table cells", tabindex: 0, role: "group", "aria-label": "Runs" }, h("table", {}, cellHeads(keys), body))),
    compared?.element);
  const stop = known.terminal ? () => {} : poll(refresh);
  return { title: known.name ?? id, element, destroy };

  function destroy() {
    stop();
    compared?.destroy();
  }
}

/** @param {any} known */
function heading({ id, name, base, matrix, counts, total, labels, created_at: created }) {
  const pairs = Object.entries(labels);
  return [
    h("h1", {}, name ?? id),
    states(counts, total),
    h("p", {}, baseText(base), ` Varied: ${swept(matrix)}.`),
    h("p", { class: "muted" }, `Created ${ago(created)}, ${id}`,
      pairs.length > 0 && `; labels ${pairs.map(([key, value]) => `${key}:${value}`).join(", ")}`),
  ];
}

/** @param {string[]} keys */
function cellHeads(keys) {
  return h("thead", {}, h("tr", {}, keys.map((key) => h("th", { scope: "col" }, key)),
    h("th", { scope: "col" }, "State"), h("th", { scope: "col" }, "Progress"), h("th", { scope: "col", class: "n" }, "Last score"),
    h("th", { scope: "col" }, "Run")));
}

/**
 * @param {any} job
 * @param {string[]} keys
 */
function cellRow(job, keys) {
  return h("tr", {}, keys.map((key) => h("td", {}, key in (job.cell ?? {}) ? valueText(job.cell[key]) : "–")),
    h("td", {}, stateMark(job)),
    h("td", {}, progressBar(job.progress)),
    h("td", { class: "n" }, job.metric ? `${number(job.metric.latest)} at ${count(job.metric.step)}` : "–"),
    h("td", {}, h("a", { href: link(["jobs", job.id]) }, job.id)));
}
