// Runs side by side: chosen in the list, those of an experiment, or those of a study.

import { get } from "../api.js";
import { h } from "../dom.js";
import { ago } from "../format.js";
import { comparison } from "../parts/compare/comparison.js";
import { swept } from "../parts/experiment_facts.js";
import { poll } from "../parts/poll.js";
import { MOST_RUNS, sourceOf } from "../parts/compare/selection.js";
import { link } from "../route.js";

const OFFERED = 5;

/**
 * @param {URLSearchParams} query
 * @returns {Promise<import("../main.js").View>}
 */
export async function compare(query) {
  const source = sourceOf(query);
  if (source === null) return { title: "Compare", element: await explanation() };
  const { jobs, left, missing } = await source.load();
  if (jobs.length === 0) return { title: source.title, element: nothing(source) };
  const compared = comparison(jobs, query);
  const { load } = source;

  async function refresh() {
    const { jobs } = await load();
    if (jobs.length > 0) await compared.update(jobs);
    return jobs.some(({ terminal }) => !terminal);
  }

  const stop = jobs.every(({ terminal }) => terminal) ? () => {} : poll(refresh);
  const counted = `${jobs.length} ${jobs.length === 1 ? "run" : "runs"}`;
  const experiment = query.get("experiment");
  // All runs of an experiment have its name.
  const title = experiment && !query.has("job") ? `${source.title} ${jobs[0].name ?? experiment}` : source.title;
  const element = h("article", {},
    h("h1", {}, title === "Compare" ? `Compare ${counted}` : `${title}: ${counted}`),
    experiment && !query.has("job") && h("p", {}, h("a", { href: link(["experiments", experiment]) }, "The experiment's own page")),
    missing.length > 0 && h("p", { class: "note" }, `The service does not have, and this leaves out: ${missing.join(", ")}.`),
    left && h("p", { class: "note" }, `There are more: only the first ${MOST_RUNS} are compared.`), compared.element);
  return { title, element, destroy };

  function destroy() {
    stop();
    compared.destroy();
  }
}

async function explanation() {
  const { data } = await get(`/v1/experiments?limit=${OFFERED}`);
  /** @param {SubmitEvent} event */
  function submit(event) {
    event.preventDefault();
    const study = new FormData(/** @type {HTMLFormElement} */ (event.target)).get("study");
    location.hash = link(["compare"], { study: String(study) });
  }
  return h("div", {}, h("h1", {}, "Compare"),
    h("section", { "aria-label": "Runs" }, h("h2", {}, "Runs"),
      h("p", {}, "Select two or more runs in the list of ", h("a", { href: "#/" }, "runs"), ", then choose ", h("b", {}, "compare"), ".")),
    h("section", { "aria-label": "An experiment" }, h("h2", {}, "An experiment"),
      data.length === 0 ? h("p", { class: "muted" }, "There is none yet.")
        : h("ul", {}, data.map((/** @type {any} */ each) => h("li", {},
          h("a", { href: link(["compare"], { experiment: each.id }) }, each.name ?? each.id), " ",
          h("span", { class: "muted" }, `${swept(each.matrix)}; ${ago(each.created_at)}`)))),
      h("p", {}, h("a", { href: "#/experiments" }, "All experiments"))),
    h("section", { "aria-label": "A study" }, h("h2", {}, "A study"),
      h("p", {}, "Studies run with ", h("code", {}, "gan-mhe study FILE --server URL"), " are found by their name."),
      h("form", { class: "row", onsubmit: submit }, h("label", {}, "Name of the study ", h("input", { name: "study", required: true })),
        h("button", {}, "Compare its runs"))));
}

/** @param {import("../parts/compare/selection.js").Source} source */
function nothing({ title, empty }) {
  return h("div", {}, h("h1", {}, title), h("p", { class: "note" }, empty), h("p", {}, h("a", { href: "#/compare" }, "What can be compared")));
}
