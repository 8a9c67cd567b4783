// Runs side by side: one slider moves all their samples by training step, above the table that says which is better.

import { address, get } from "../api.js";
import { fill, h } from "../dom.js";
import { number } from "../format.js";
import { forest } from "../parts/forest.js";
import { sideBySide } from "../parts/side_by_side.js";
import { link, note } from "../route.js";

const MOST_FILMS = 12;

/**
 * @param {URLSearchParams} query
 * @returns {Promise<import("../main.js").View>}
 */
export async function compare(query) {
  const ids = query.getAll("job");
  if (ids.length === 0) return { title: "Compare", element: explanation() };
  const jobs = await Promise.all(ids.map((id) => get(`/v1/jobs/${encodeURIComponent(id)}`)));
  const asked = query.get("step");
  const films = sideBySide(jobs.slice(0, MOST_FILMS), asked === null ? null : Number(asked), (step) => note({ step }));
  const result = h("div");
  const variants = [...new Set(jobs.map((job) => job.variant_label ?? job.variant))];
  const reference = h("select", { onchange: () => draw() }, h("option", { value: "" }, "no variant"),
    variants.map((name) => h("option", { value: name, selected: name === query.get("reference") }, name)));

  async function draw() {
    note({ reference: reference.value });
    const sent = new URLSearchParams(ids.map((id) => ["job", id]));
    if (reference.value) sent.set("reference", reference.value);
    try {
      const table = await get(`/v1/compare?${sent}`);
      fill(result, ...verdict(table, jobs), exports(sent));
    } catch (error) {
      fill(result, h("p", { class: "note error", role: "alert" }, /** @type {Error} */ (error).message));
    }
  }

  await draw();
  const element = h("article", {}, h("h1", {}, `Compare ${jobs.length} runs`),
    jobs.length > MOST_FILMS && h("p", { class: "note" }, `Samples of the first ${MOST_FILMS} runs are shown.`),
    h("section", { "aria-label": "Samples" }, h("h2", {}, "Samples by training step"), films.element),
    h("section", { "aria-label": "Scores" }, h("h2", {}, "Scores"),
      variants.length > 1 && h("p", { class: "row" }, h("label", {}, "Differences from ", reference)), result));
  return { title: "Compare", element, destroy: films.destroy };
}

function explanation() {
  return h("div", {}, h("h1", {}, "Compare"),
    h("p", {}, "Select two or more runs in the list of ", h("a", { href: "#/" }, "runs"), ", then choose ", h("b", {}, "compare"), "."));
}

/**
 * @param {any} table
 * @param {any[]} jobs
 * @returns {any[]}
 */
function verdict(table, jobs) {
  const names = new Map(jobs.map((job) => [job.id, job]));
  const percent = Math.round(100 * table.confidence);
  const paired = table.rows.some((/** @type {any} */ row) => (row.difference ?? null) !== null);
  return [
    h("p", { class: "muted" }, `${table.metric.replaceAll("_", " ")}, protocol ${table.protocol}. The unit is the training seed; `,
      `the interval covers the mean with ${percent} %. Real images: ${number(table.real)}.`),
    table.rows.every((/** @type {any} */ row) => row.n < 2) &&
      h("p", { class: "note" }, "One seed says nothing about the spread between seeds."),
    table.same_budget === false && h("p", { class: "note" }, "The runs differ in more than the variant: their budgets are not equal."),
    forest(table, names),
    h("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Scores by variant" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Variant", "n", "Mean", "Std", `${percent} % interval`, "Best", ...(paired ? ["Difference", "p (Holm)"] : [])]
        .map((text, index) => h("th", { scope: "col", class: index ? "n" : "" }, text)))),
      h("tbody", {}, table.rows.map((/** @type {any} */ row) => tableRow(row, paired))))),
    table.unfinished.length > 0 && h("p", { class: "muted" }, "Without a score yet: ",
      table.unfinished.map((/** @type {any} */ id, /** @type {number} */ index) => [index > 0 && ", ",
        h("a", { href: link(["jobs", id]) }, names.get(id)?.name ?? id)]), "."),
  ];
}

/**
 * @param {any} row
 * @param {boolean} paired
 */
function tableRow(row, paired) {
  const lost = row.failed + row.diverged;
  const cell = (/** @type {any} */ text) => h("td", { class: "n" }, text);
  return h("tr", {}, h("th", { scope: "row" }, row.variant),
    cell(lost ? `${row.n} (+${lost} without score)` : row.n), cell(number(row.mean)), cell(number(row.std)),
    cell(row.ci_low === null ? "–" : `${number(row.ci_low)} to ${number(row.ci_high)}`), cell(number(row.best_mean)),
    paired && cell(number(row.difference)),
    paired && cell(number(row.p_holm)));
}

/** @param {URLSearchParams} sent */
function exports(sent) {
  const file = (/** @type {string} */ format, /** @type {string} */ text, /** @type {string} */ name) =>
    h("a", { href: address(`/v1/compare?${new URLSearchParams([...sent, ["format", format]])}`), download: name }, text);
  return h("p", { class: "row" }, "Save as ", file("csv", "CSV", "comparison.csv"), file("markdown", "Markdown", "comparison.md"));
}
