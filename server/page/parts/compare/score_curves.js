// Scores against training steps: a line for each variant, the mean over its seeds, in the band of its seeds.

import { get } from "../../api.js";
import { fill, h } from "../../dom.js";
import { number, words } from "../../format.js";
import { Chart } from "../chart.js";
import { seriesOf } from "../columns.js";
import { pictureFiles } from "../export.js";
import { inTurn } from "../in_turn.js";
import { MOST_CURVES, palette } from "../plot.js";
import { meanSeries } from "./score_series.js";
import { scorePicture } from "./score_svg.js";

/** @typedef {import("../columns.js").Series} Series */

const MOST_POINTS = 5000; // the most that the service sends
const AT_ONCE = 6; // requests, as many as browsers open connections
const NOTE = "Line: mean over the seeds that have a score at the step. Band: from the lowest to the highest of them.";
let made = 0;

/** One metric of runs under one protocol. It is empty until `update` is called. */
export class ScoreCurves {
  /**
   * @param {string} metric
   * @param {string} protocol
   */
  constructor(metric, protocol) {
    this.metric = metric;
    this.protocol = protocol;
    this.stop = new AbortController();
    /** @type {Map<string, any[]>} */
    this.variants = new Map();
    /** @type {Set<string> | null} those drawn; null before the first are known */
    this.chosen = null;
    /** @type {Map<string, {series: Series, whole: boolean}>} by job; `whole`: it will not change any more */
    this.known = new Map();
    /** @type {Chart | null} */
    this.chart = null;
    /** @type {number | null} */
    this.real = null;
    /** @type {import("../plot.js").View} */
    this.view = { log: false, smooth: 0, window: null, last: 0, palette: palette(), level: null };
    this.sync = `scores-${++made}`;
    this.loading = inTurn((signal) => this.load(signal));
    this.place = h("div");
    this.choice = h("div");
    this.status = h("p", { class: "muted", role: "status" });
    this.live = h("p", { class: "curve-live", "aria-live": "polite" });
    this.out = h("button", { type: "button", hidden: true, onclick: () => this.zoom(null) }, "Show all steps");
    this.files = pictureFiles("chart", `${metric}-by-step`, () => this.picture());
    this.files.append(this.out);
    this.files.hidden = true;
    this.element = h("div", { class: "scores-chart" }, this.choice, this.place, this.status, this.files, this.live);
    this.sizes = new ResizeObserver(() => this.chart?.resize());
    this.sizes.observe(this.element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.view.palette = palette();
      this.chart?.draw();
    }, { signal: this.stop.signal });
  }

  /**
   * @param {Map<string, any[]>} variants their runs by name
   */
  update(variants) {
    const names = [...variants.keys()];
    const others = names.join("\n") !== [...this.variants.keys()].join("\n");
    this.variants = variants;
    const kept = [...(this.chosen ?? [])].filter((name) => variants.has(name));
    const renamed = kept.length === 0 && this.chosen?.size !== 0;
    this.chosen = new Set(renamed ? names.slice(0, MOST_CURVES) : kept);
    const real = [...variants.values()].flat().map((job) => job.scores?.real?.[this.metric])
      .find((value) => typeof value === "number");
    this.real = this.view.level = real ?? null;
    if (others) this.drawChoice();
    this.loading.ask();
  }

  /** Ask for the scores of the drawn variants that are not known whole, some runs at a time. @param {AbortSignal} signal */
  async load(signal) {
    const jobs = [...(this.chosen ?? [])].flatMap((name) => this.variants.get(name) ?? [])
      .filter((job) => !this.known.get(job.id)?.whole);
    try {
      for (let first = 0; first < jobs.length; first += AT_ONCE) {
        await Promise.all(jobs.slice(first, first + AT_ONCE).map((job) => this.ask(job, signal)));
      }
      this.status.textContent = "";
      this.draw();
    } catch (error) {
      if (signal.aborted) return;
      this.status.textContent = `The scores cannot be shown: ${/** @type {Error} */ (error).message}`;
      this.draw();
      throw error; // it is tried again if that may help
    }
  }

  /**
   * @param {any} job
   * @param {AbortSignal} signal
   */
  async ask(job, signal) {
    const query = new URLSearchParams({ name: this.metric, max_points: String(MOST_POINTS) });
    const { data } = await get(`/v1/jobs/${encodeURIComponent(job.id)}/metrics/history?${query}`, signal);
    this.known.set(job.id, { series: seriesOf(data[0]), whole: job.terminal });
  }

  /** @returns {Series[]} those of the drawn variants, in the order of the table */
  series() {
    return [...this.variants].filter(([name]) => this.chosen?.has(name)).map(([name, jobs]) =>
      meanSeries(`${name} (${jobs.length === 1 ? "1 run" : `${jobs.length} runs`})`, jobs.length, jobs.flatMap((job) => this.known.get(job.id)?.series ?? [])));
  }

  draw() {
    const all = this.series();
    const empty = all.every(({ points }) => points.length === 0);
    this.files.hidden = this.place.hidden = empty;
    if (empty) {
      this.status.textContent ||= all.length ? "No score was measured yet." : "No variant is chosen.";
      return;
    }
    const names = all.map(({ name }) => name);
    if (this.chart?.names.join("\n") !== names.join("\n")) this.make(names);
    const chart = /** @type {Chart} */ (this.chart);
    chart.series = all;
    this.view.last = Math.max(...all.flatMap(({ points }) => points.map(({ step }) => step)));
    chart.shared.note = this.note();
    chart.draw();
  }

  note() {
    return this.real === null ? NOTE : `${NOTE} Dashed: real images, ${number(this.real)}.`;
  }

  /** @param {string[]} names */
  make(names) {
    this.chart?.destroy();
    this.chart = new Chart(words(this.metric), names, {
      view: this.view, sync: this.sync, onZoom: (window) => this.zoom(window), onCursor: () => {},
      say: (text) => { this.live.textContent = text; },
    });
    fill(this.place, this.chart.element);
  }

  /** @param {[number, number] | null} window */
  zoom(window) {
    this.view.window = window;
    this.out.hidden = window === null;
    this.live.textContent = window ? `steps ${window[0]} to ${window[1]}` : "all steps";
    this.chart?.draw();
  }

  /** The variants to draw, where there are several. */
  drawChoice() {
    const chosen = /** @type {Set<string>} */ (this.chosen);
    const full = () => {
      for (const box of boxes) box.disabled = !box.checked && chosen.size >= MOST_CURVES;
    };
    /** @type {any[]} */
    const boxes = [];
    const options = [...this.variants.keys()].map((name) => {
      const box = h("input", { type: "checkbox", checked: chosen.has(name), onchange: () => {
        if (box.checked) chosen.add(name);
        else chosen.delete(name);
        full();
        this.draw(); // of what is known, at once
        this.loading.ask();
      } });
      boxes.push(box);
      return h("label", {}, box, " ", name);
    });
    full();
    fill(this.choice, options.length > 1 && h("fieldset", { class: "scores-choice" },
      h("legend", {}, options.length > MOST_CURVES ? `Variants drawn, at most ${MOST_CURVES}` : "Variants drawn"), options));
  }

  picture() {
    const facts = { metric: words(this.metric), protocol: this.protocol, real: this.real, note: NOTE };
    return scorePicture(this.series(), facts);
  }

  destroy() {
    this.stop.abort();
    this.loading.stop();
    this.sizes.disconnect();
    this.chart?.destroy();
  }
}
