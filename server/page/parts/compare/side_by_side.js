// The grids of several runs at one training step: each run shows its grid nearest to the step, and says which that is.

import { address } from "../../api.js";
import { fill, h } from "../../dom.js";
import { count } from "../../format.js";
import { link } from "../../route.js";
import { Grids } from "../film_grids.js";
import { inTurn } from "../in_turn.js";
import { pixels } from "../pixels.js";
import { titles } from "./protocols.js";

/**
 * @param {any[]} jobs
 * @param {number | null} wanted the step to begin with; null for the last
 * @param {(step: number) => void} onStep
 * @returns {{element: Element, refresh: () => void, destroy: () => void}}
 */
export function sideBySide(jobs, wanted, onStep) {
  const title = titles(jobs);
  const cards = jobs.map((job) => new Card(job, title(job)));
  /** @type {number[]} the steps of all grids of all runs, rising */
  let steps = [];
  const said = h("output", {});
  const slider = h("input", { type: "range", min: 0, max: 0, step: 1, class: "sides-slider", "aria-label": "Training step",
    oninput: () => show(steps[slider.valueAsNumber]),
    onchange: () => onStep(steps[slider.valueAsNumber]) }); // not while it moves: browsers refuse so many addresses
  const controls = h("p", { class: "row", hidden: true }, "Step ", said, slider);
  const status = h("p", { class: "muted", role: "status" }, "The grids are being loaded …");

  /** @param {number} step in the list of steps */
  function show(step) {
    said.textContent = count(step);
    slider.setAttribute("aria-valuetext", `step ${step}`);
    for (const card of cards) card.show(step);
  }

  /** Read the grids. At the last step the slider goes on to the new last one, else it stays at its step. @param {AbortSignal} signal */
  async function load(signal) {
    await Promise.all(cards.map((card) => card.grids.load(card.job.id, signal)));
    const before = steps[slider.valueAsNumber];
    const wish = steps.length === 0 ? wanted : before === steps[steps.length - 1] ? null : before;
    steps = [...new Set(cards.flatMap((card) => card.grids.list.map((grid) => grid.step)))].sort((a, b) => a - b);
    if (steps.length === 0) {
      status.textContent = "No run has a grid yet.";
      return;
    }
    status.textContent = "";
    controls.hidden = false;
    slider.max = String(steps.length - 1);
    slider.value = String(wish === null ? steps.length - 1 : nearest(steps, wish));
    show(steps[slider.valueAsNumber]);
  }

  const loading = inTurn(async (signal) => {
    try {
      await load(signal);
    } catch (error) {
      if (signal.aborted) return;
      status.textContent = /** @type {Error} */ (error).message;
      throw error; // it is tried again if that may help
    }
  });
  loading.ask();
  return { element: h("div", {}, controls, status, h("div", { class: "sides" }, cards.map((card) => card.element))),
    refresh: loading.ask, destroy: loading.stop };
}

/** The grid of one run. */
class Card {
  grids = new Grids();
  #image = pixels(h("img", { class: "sides-image", alt: "", hidden: true }));
  #caption = h("span", { class: "muted" });

  /**
   * @param {any} job
   * @param {{own: string, name: string | null}} title
   */
  constructor(job, { own, name }) {
    this.job = job;
    this.name = name ?? own;
    this.element = h("figure", { class: "sides-card" },
      h("figcaption", {}, h("a", { href: link(["jobs", job.id]) }, own), name && [h("br"), h("span", { class: "muted" }, name)]),
      this.#image, this.#caption);
  }

  /** @param {number} step */
  show(step) {
    const grid = this.grids.list[this.grids.nearest(step)];
    this.#image.hidden = grid === undefined;
    if (grid === undefined) {
      fill(this.#caption, "no grid yet");
      return;
    }
    this.#image.src = address(grid.image);
    this.#image.alt = `generated samples, run ${this.name}, step ${grid.step}`;
    fill(this.#caption, grid.step === step ? `step ${count(grid.step)}`
      : `step ${count(grid.step)}: the nearest`);
  }
}

/**
 * @param {number[]} steps
 * @param {number} step
 */
function nearest(steps, step) {
  return steps.reduce((best, each, index) => (Math.abs(each - step) < Math.abs(steps[best] - step) ? index : best), 0);
}
