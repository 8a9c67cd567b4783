// Which runs are shown side by side: one seed of each variant, all of some seed, or those that the user ticks.

import { fill, h } from "../../dom.js";
import { note } from "../../route.js";
import { variantOf } from "./protocols.js";
import { sideBySide } from "./side_by_side.js";

const MOST_FILMS = 12;

/**
 * The films of some runs. Only those that are shown are fetched. The address keeps the choice and the step.
 * @param {any[]} jobs
 * @param {URLSearchParams} query
 * @returns {{element: Element, update: (jobs: any[]) => void, destroy: () => void}}
 */
export function films(jobs, query) {
  let known = jobs;
  let step = query.get("step");
  /** @type {Set<string>} */
  let shown = new Set(query.get("films")?.split(",") ?? ofSeed(jobs, query.get("seed")));
  const seeds = [...new Set(jobs.map(({ seed }) => seed))].filter((seed) => seed !== null).sort((a, b) => a - b);
  const place = h("div");
  const boxes = h("div", { class: "films-boxes" });
  const said = h("p", { class: "muted", role: "status" });
  /** @type {ReturnType<typeof sideBySide> | null} */
  let present = null;

  const few = jobs.length <= MOST_FILMS;
  const choice = h("select", { onchange: () => {
    shown = new Set(ofSeed(known, choice.value));
    note({ seed: choice.value, films: null });
    draw();
  } }, h("option", { value: "" }, few ? "all runs" : "the first of each variant"),
  few && h("option", { value: "first" }, "the first of each variant"),
  seeds.map((seed) => h("option", { value: seed, selected: String(seed) === query.get("seed") }, `seed ${seed}`)));
  if (query.get("seed") === "first") choice.value = few ? "first" : "";

  /** @param {string} id @param {boolean} on */
  function tick(id, on) {
    if (on) shown.add(id);
    else shown.delete(id);
    note({ films: [...shown].join(","), seed: null });
    draw();
  }

  // Made once, so that a box that was pressed keeps the focus.
  const ticks = new Map(jobs.map(({ id }) => [id, h("input", { type: "checkbox",
    onchange: (/** @type {any} */ event) => tick(id, event.target.checked) })]));
  fill(boxes, jobs.map((job) => h("label", {}, ticks.get(job.id), ` ${variantOf(job)}, seed ${job.seed}`)));

  function drawBoxes() {
    for (const [id, box] of ticks) {
      box.checked = shown.has(id);
      box.disabled = !box.checked && shown.size >= MOST_FILMS;
    }
  }

  function draw() {
    present?.destroy();
    const chosen = known.filter(({ id }) => shown.has(id)).slice(0, MOST_FILMS);
    present = chosen.length ? sideBySide(chosen, step === null ? null : Number(step), (to) => {
      step = String(to);
      note({ step: to });
    }) : null;
    fill(place, present?.element ?? h("p", { class: "muted" }, "No run is chosen."));
    said.textContent = `${chosen.length} of ${known.length} runs are shown${known.length > MOST_FILMS ? `, at most ${MOST_FILMS}` : ""}.`;
    drawBoxes();
  }

  draw();
  const element = h("div", {}, jobs.length > 1 && h("div", { class: "row" }, h("label", {}, "Show ", choice), said),
    jobs.length > 1 && h("details", {}, h("summary", {}, "Choose runs"), boxes), place);
  return {
    element,
    update(/** @type {any[]} */ jobs) {
      const running = known.some(({ id, terminal }) => shown.has(id) && !terminal);
      known = jobs;
      if (running) present?.refresh();
    },
    destroy: () => present?.destroy(),
  };
}

/**
 * The ids of the runs of a seed, "first" for the first run of each variant; without a seed, all if they are few.
 * @param {any[]} jobs
 * @param {string | null} seed
 * @returns {string[]}
 */
function ofSeed(jobs, seed) {
  const few = jobs.length <= MOST_FILMS && !seed;
  if (few) return jobs.map(({ id }) => id);
  if (seed && seed !== "first") return jobs.filter((job) => String(job.seed) === seed).slice(0, MOST_FILMS).map(({ id }) => id);
  /** @type {Map<string, string>} */
  const first = new Map();
  for (const job of jobs) if (!first.has(variantOf(job))) first.set(variantOf(job), job.id);
  return [...first.values()].slice(0, MOST_FILMS);
}
