// The film of a job: its sample grids over the training steps, with a slider, playback and a comparison of two steps.

import { get } from "../api.js";
import { fill, h } from "../dom.js";
import { Grids } from "./film_grids.js";
import { Picture, stepText } from "./film_picture.js";

/** @typedef {import("./film_grids.js").Grid} Grid */
/** @typedef {import("./film_picture.js").Zoom} Zoom */
/** @typedef {{step: number, width: number, height: number, url: string}} Drawn data of the event `sample.created` */

const NO_GRID = "No grid yet: the first is drawn at step 0, before training.";
const RATES = [2, 5, 10]; // grids a second
/** @type {Zoom[]} */
const ZOOMS = [1, 2, 3, "fit"];
const NOTE_MS = 300; // browsers refuse an address that changes many times a second

/**
 * The film of a job. It loads the job's grids itself; `add` takes those drawn since, `destroy` ends all its work.
 * @param {string} jobId
 * @param {{onStep: (step: number) => void, wanted?: number | null}} options onStep: called when another step is shown,
 *   but not for new grids while nobody has asked for a step. wanted: the step to begin with; null for the newest
 * @returns {{element: HTMLElement, add: (sample: Drawn) => void, destroy: () => void}}
 */
export function film(jobId, { onStep, wanted = null }) {
  const made = new Film(jobId, onStep, wanted);
  made.load();
  return { element: made.element, add: (sample) => made.add(sample), destroy: () => made.destroy() };
}

class Film {
  #grids = new Grids();
  #index = -1;
  #indexB = -1;
  #comparing = false;
  #playing = false;
  #loading = false; // an image
  #loaded = false; // the list
  #noteTimer = 0;
  #playTimer = 0;
  #abort = new AbortController();
  /** @type {{name: string | null, images: number | null, total: number | null}} */
  #job = { name: null, images: null, total: null };
  #picture = new Picture((grid) => this.#describe(grid));

  #labelA = h("span");
  #stepA = h("span", { "aria-hidden": "true", class: "film-step" }); // the slider's own value says it
  #sliderA = h("input", { type: "range", min: 0, step: 1, oninput: () => this.#chosen(this.#sliderA.valueAsNumber) });
  #stepB = h("span", { "aria-hidden": "true", class: "film-step" });
  #sliderB = h("input", { type: "range", min: 0, step: 1, oninput: () => this.#choseB() });
  #rowB = h("label", { class: "film-slider", hidden: true },
    h("span", {}, "Step B, right"), this.#stepB, this.#sliderB);
  #play = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.#toggle() }, "Play");
  #rate = rates();
  #compare = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.#toggleB() },
    "Compare two steps");
  #asked = h("input", { type: "number", min: 0, step: 1, required: true });
  #rule = h("p", { role: "status", class: "film-rule" });
  #failure = h("p", { role: "alert", class: "film-failure" });
  #note = h("p", { class: "film-note" });
  #body = h("div", { class: "film-body", hidden: true }, this.#controls(), this.#rule, this.#picture.element);
  element = h("section", { class: "film", "aria-label": "Sample grids by training step" },
    this.#body, this.#failure, this.#note);

  /**
   * @param {string} jobId
   * @param {(step: number) => void} onStep
   * @param {number | null} wanted
   */
  constructor(jobId, onStep, wanted) {
    this.jobId = jobId;
    this.onStep = onStep;
    this.wanted = wanted;
    this.addressed = wanted !== null; // whether the address says a step, which must then stay right
    fill(this.#note, "The grids are being loaded …");
  }

  async load() {
    fill(this.#failure);
    try {
      const [job] = await Promise.all([
        get(`/v1/jobs/${encodeURIComponent(this.jobId)}`, this.#abort.signal),
        this.#grids.load(this.jobId, this.#abort.signal),
      ]);
      this.#job = { name: job.name, images: job.config?.sampling?.num_images ?? null, total: job.progress.total_steps };
    } catch (error) {
      if (!this.#abort.signal.aborted) this.#loadFailed(/** @type {Error} */ (error));
      return;
    }
    this.#loaded = true;
    this.#index = this.wanted === null ? this.#grids.list.length - 1 : this.#grids.nearest(this.wanted);
    this.#sayRule(this.wanted);
    this.#draw();
  }

  /** @param {Drawn} sample */
  add(sample) {
    const { list } = this.#grids;
    const [stepA, stepB] = [list[this.#index]?.step, list[this.#indexB]?.step];
    const newest = this.#index === list.length - 1;
    this.#grids.put({ step: sample.step, width: sample.width, height: sample.height, image: sample.url });
    if (!this.#loaded) return;
    this.#index = newest ? list.length - 1 : this.#grids.nearest(stepA); // indexes may have moved
    if (stepB !== undefined) this.#indexB = this.#grids.nearest(stepB);
    if (newest && this.addressed) this.#noteStep();
    this.#draw();
  }

  destroy() {
    this.#abort.abort();
    this.#pause();
    clearTimeout(this.#noteTimer);
    this.#picture.close();
  }

  #controls() {
    const go = h("form", { class: "film-go", onsubmit: (/** @type {Event} */ event) => this.#go(event) },
      h("label", {}, "Go to step ", this.#asked), h("button", { type: "submit" }, "Go"));
    return h("div", { class: "film-controls" },
      h("label", { class: "film-slider" }, this.#labelA, this.#stepA, this.#sliderA),
      this.#rowB,
      h("div", { class: "film-row" },
        this.#play, h("label", {}, "Speed ", this.#rate), go, this.#compare, this.#zooms()));
  }

  #zooms() {
    /** @type {HTMLElement[]} */
    const buttons = ZOOMS.map((zoom) => h("button", {
      type: "button", "aria-pressed": String(zoom === 1),
      onclick: (/** @type {Event} */ event) => {
        for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.currentTarget));
        this.#picture.zoom = zoom;
      },
    }, zoom === "fit" ? "Fit" : `${zoom}×`));
    return h("div", { class: "film-zoom", role: "group", "aria-label": "Zoom" }, buttons);
  }

  /** @param {Grid} grid */
  #describe(grid) {
    const count = this.#job.images === null ? "" : `${this.#job.images} `;
    return `${count}generated samples, run ${this.#job.name ?? this.jobId}, step ${grid.step}`;
  }

  /** Make the controls say what is chosen, and show it. */
  #draw() {
    const { list } = this.#grids;
    this.#body.hidden = list.length === 0;
    fill(this.#note, this.#noteText());
    if (list.length === 0) return;
    fill(this.#labelA, this.#comparing ? "Step A, left" : "Training step");
    this.#drawSlider(this.#sliderA, this.#stepA, this.#index);
    if (this.#comparing) this.#drawSlider(this.#sliderB, this.#stepB, this.#indexB);
    for (const control of [this.#play, this.#compare]) control.disabled = list.length < 2;
    this.#show();
  }

  /**
   * @param {HTMLInputElement} slider
   * @param {HTMLElement} text
   * @param {number} index
   */
  #drawSlider(slider, text, index) {
    const total = this.#job.total === null ? "" : ` of ${this.#job.total.toLocaleString("en")}`;
    const said = `${stepText(this.#grids.list[index].step)}${total}`;
    slider.max = String(this.#grids.list.length - 1);
    slider.value = String(index);
    slider.setAttribute("aria-valuetext", said);
    fill(text, said);
  }

  #noteText() {
    const { list, pruned } = this.#grids;
    if (pruned === 0) return list.length === 0 ? NO_GRID : "";
    const grids = pruned === 1 ? "1 grid was" : `${pruned.toLocaleString("en")} grids were`;
    return `${grids} deleted to save space${list.length === 0 ? "; no grid is left." : " and cannot be shown."}`;
  }

  /** Show what is chosen. One image is loaded at a time: of the steps that a slider passes meanwhile, only the last. */
  async #show() {
    if (this.#loading) return;
    this.#loading = true;
    /** @type {Grid | undefined} */
    let a;
    /** @type {Grid | null | undefined} */
    let b;
    const chosenB = () => (this.#comparing ? this.#grids.list[this.#indexB] : null);
    while (a !== this.#grids.list[this.#index] || b !== chosenB()) {
      a = this.#grids.list[this.#index];
      b = chosenB();
      await this.#try(a, b);
    }
    this.#loading = false;
    if (this.#abort.signal.aborted) return;
    const { list } = this.#grids;
    this.#picture.prefetch([list[this.#index - 1], list[this.#index + 1]].filter((grid) => grid !== undefined));
    this.#playOn();
  }

  /**
   * @param {Grid} a
   * @param {Grid | null} b
   */
  async #try(a, b) {
    try {
      await this.#picture.show(a, b);
      fill(this.#failure);
    } catch {
      const steps = b ? `${stepText(a.step)} or ${stepText(b.step)}` : stepText(a.step);
      const kept = this.#picture.shown;
      fill(this.#failure, `The image of ${steps} could not be loaded.`,
        kept && ` The picture is still that of ${stepText(kept.step)}.`);
    }
  }

  /** @param {number} index the reader's choice */
  #chosen(index) {
    this.#pause();
    fill(this.#rule);
    this.#move(index);
  }

  /** @param {number} index */
  #move(index) {
    this.#index = index;
    this.#noteStep();
    this.#draw();
  }

  /** Report the step once it has stayed for a moment. */
  #noteStep() {
    this.addressed = true;
    clearTimeout(this.#noteTimer);
    this.#noteTimer = setTimeout(() => this.onStep(this.#grids.list[this.#index].step), NOTE_MS);
  }

  /** @param {Event} event */
  #go(event) {
    event.preventDefault();
    const step = this.#asked.valueAsNumber;
    this.#chosen(this.#grids.nearest(step));
    this.#sayRule(step);
  }

  /** @param {number | null} asked */
  #sayRule(asked) {
    const shown = this.#grids.list[this.#index]?.step;
    if (asked === null || shown === undefined || asked === shown) return;
    fill(this.#rule, `asked ${asked.toLocaleString("en")}, shown ${shown.toLocaleString("en")}: the nearest`);
  }

  #toggle() {
    if (this.#playing) this.#pause();
    else this.#start();
  }

  #start() {
    this.#playing = true;
    this.#play.setAttribute("aria-pressed", "true");
    fill(this.#rule);
    if (this.#index === this.#grids.list.length - 1) this.#move(0);
    else this.#playOn();
  }

  #pause() {
    this.#playing = false;
    this.#play.setAttribute("aria-pressed", "false");
    clearTimeout(this.#playTimer);
  }

  /** Go to the next grid after the time of one; pause after the last. Called when the present one is shown. */
  #playOn() {
    clearTimeout(this.#playTimer);
    if (!this.#playing) return;
    if (this.#index === this.#grids.list.length - 1) this.#pause();
    else this.#playTimer = setTimeout(() => this.#move(this.#index + 1), 1000 / Number(this.#rate.value));
  }

  #toggleB() {
    this.#comparing = !this.#comparing;
    this.#compare.setAttribute("aria-pressed", String(this.#comparing));
    this.#rowB.hidden = !this.#comparing;
    const last = this.#grids.list.length - 1;
    if (this.#indexB < 0) this.#indexB = this.#index === last ? 0 : last;
    this.#draw();
  }

  #choseB() {
    this.#indexB = this.#sliderB.valueAsNumber;
    this.#draw();
  }

  /** @param {Error} error */
  #loadFailed(error) {
    fill(this.#note);
    fill(this.#failure, `The grids could not be loaded: ${error.message}. `,
      h("button", { type: "button", onclick: () => this.load() }, "Try again"));
  }
}

/** The choice of the speed. It begins slowly for readers who asked for little motion. */
function rates() {
  const first = matchMedia("(prefers-reduced-motion: reduce)").matches ? 2 : 5;
  const option = (/** @type {number} */ rate) => h("option", { value: rate, selected: rate === first },
    `${rate} grids a second`);
  return h("select", {}, RATES.map(option));
}
