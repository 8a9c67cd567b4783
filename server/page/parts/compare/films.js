// Which runs are shown side by side: one seed of each variant, all of some seed, or those that the user ticks.

import { fill, h } from "../../dom.js";
import { variantOf } from "../../format.js";
import { note, stepOf } from "../../route.js";
import { titles } from "./protocols.js";
import { sideBySide } from "./side_by_side.js";

const MOST_FILMS = 12;
/** Values of the choice beside the seeds: all, or the first of each variant if these are too many; and the two others. */
const [USUAL, FIRST, TICKED] = ["", "first", "ticked"];

/**
 * The films of some runs. Only those that are shown are fetched. The address keeps the choice and the step.
 * @param {any[]} jobs
 * @param {URLSearchParams} query
 * @returns {{element: Element, update: (jobs: any[]) => void, destroy: () => void}}
 */
export function films(jobs, query) {
  let known = jobs;
  let step = stepOf(query);
  const ticked = query.get("films")?.split(",").filter((id) => jobs.some((job) => job.id === id)).slice(0, MOST_FILMS);
  let shown = new Set(ticked ?? ofSeed(jobs, query.get("seed")));
  const place = h("div");
  const said = h("p", { class: "muted", role: "status" });
  /** @type {ReturnType<typeof sideBySide> | null} */
  let present = null;

  const choice = seedChoice(jobs, ticked ? TICKED : query.get("seed") ?? USUAL, (seed) => {
    shown = new Set(ofSeed(known, seed));
    note({ seed, films: null });
    draw();
  });
  const boxes = tickBoxes(jobs, (id, on) => {
    if (on) shown.add(id);
    else shown.delete(id);
    choice.value = TICKED;
    note({ films: [...shown].join(",") || "none", seed: null });
    draw();
  });

  function draw() {
    present?.destroy();
    const chosen = known.filter(({ id }) => shown.has(id));
    present = chosen.length ? sideBySide(chosen, step, (to) => {
      step = to;
      note({ step: to });
    }) : null;
    fill(place, present?.element ?? h("p", { class: "muted" }, "No run is chosen."));
    said.textContent = `${chosen.length} of ${known.length} runs are shown${known.length > MOST_FILMS ? `, at most ${MOST_FILMS}` : ""}.`;
    boxes.show(shown);
  }

  draw();
  const element = h("div", {}, jobs.length > 1 && h("div", { class: "row" }, h("label", {}, "Show ", choice), said),
    jobs.length > 1 && h("details", {}, h("summary", {}, "Choose runs"), boxes.element), place);
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
 * @param {any[]} jobs
 * @param {string} chosen
 * @param {(seed: string) => void} onChange
 * @returns {HTMLSelectElement}
 */
function seedChoice(jobs, chosen, onChange) {
  const few = jobs.length <= MOST_FILMS;
  const seeds = [...new Set(jobs.map(({ seed }) => seed))].filter((seed) => seed !== null).sort((a, b) => a - b);
  const select = h("select", { onchange: () => {
    if (select.value !== TICKED) onChange(select.value);
  } }, h("option", { value: USUAL }, few ? "all runs" : "the first of each variant"),
  few && h("option", { value: FIRST }, "the first of each variant"),
  seeds.map((seed) => h("option", { value: seed }, `seed ${seed}`)), h("option", { value: TICKED }, "those ticked below"));
  select.value = chosen;
  if (select.selectedIndex < 0) select.value = USUAL;
  return select;
}

/**
 * A box for each run. They are made once, so that a box that was pressed keeps the focus.
 * @param {any[]} jobs
 * @param {(id: string, on: boolean) => void} onTick
 * @returns {{element: Element, show: (shown: Set<string>) => void}}
 */
function tickBoxes(jobs, onTick) {
  const title = titles(jobs);
  const boxes = new Map(jobs.map(({ id }) => [id, h("input", { type: "checkbox",
    onchange: (/** @type {any} */ event) => onTick(id, event.target.checked) })]));
  const element = h("div", { class: "films-boxes" },
    jobs.map((job) => h("label", {}, boxes.get(job.id), ` ${title(job).own}`)));
  return { element, show: (shown) => {
    for (const [id, box] of boxes) {
      box.checked = shown.has(id);
      box.disabled = !box.checked && shown.size >= MOST_FILMS;
    }
  } };
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
  if (seed && seed !== FIRST) return jobs.filter((job) => String(job.seed) === seed).slice(0, MOST_FILMS).map(({ id }) => id);
  /** @type {Map<string, string>} */
  const first = new Map();
  for (const job of jobs) if (!first.has(variantOf(job))) first.set(variantOf(job), job.id);
  return [...first.values()].slice(0, MOST_FILMS);
}
