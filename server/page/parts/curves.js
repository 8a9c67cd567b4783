// The curves of a job: groups of charts that share the cursor, the window of steps and the way of drawing.
//
// A chart asks for its values when it comes into sight, and is drawn only while it is there.

import { get } from "../api.js";
import { fill, h } from "../dom.js";
import { current, note } from "../route.js";
import { Chart } from "./chart.js";
import { csv } from "./columns.js";
import { failure, measured, Values } from "./curve_values.js";
import { windowOf, windowTools } from "./curve_window.js";
import { save } from "./export.js";
import { GROUPS, plan } from "./groups.js";
import { palette } from "./plot.js";

/** @typedef {import("./curve_values.js").Event} Event */
/** @typedef {import("./curve_window.js").Window} Window */

const REDRAW_MS = 250;
const REST_MS = 300; // then a window is said and noted: browsers refuse an address that changes many times a second
const MOST_SMOOTHING = 0.99;
const OTHERS_AT_ONCE = 24;
const LIVE = ["metric.batch", "evaluation.completed", "job.started"];
const FORMULA = "Exponential moving average: s = w·s + (1 − w)·x, begun with the first value. "
  + "Values that are not finite do not enter. The raw line stays, faint.";
let made = 0;

/**
 * The curves of a job. `onCursor` gets the step under the cursor, null when the cursor leaves.
 * @param {string} jobId
 * @param {{onCursor?: (step: number | null) => void}} [options]
 * @returns {{element: HTMLElement, push: (event: Event) => void, destroy: () => void}}
 */
export function curves(jobId, { onCursor = () => {} } = {}) {
  const view = new Curves(jobId, onCursor);
  view.start();
  return { element: view.element, push: (event) => view.push(event), destroy: () => view.destroy() };
}

class Curves {
  /**
   * @param {string} jobId
   * @param {(step: number | null) => void} onCursor
   */
  constructor(jobId, onCursor) {
    this.path = `/v1/jobs/${encodeURIComponent(jobId)}/metrics`;
    this.jobId = jobId;
    const { query } = current();
    const smooth = Math.min(Math.max(Number(query.get("smooth")) || 0, 0), MOST_SMOOTHING);
    /** @type {import("./plot.js").View} */
    this.view = { log: query.get("log") === "1", smooth, window: windowOf(query), last: 0, palette: palette() };
    this.shared = {
      view: this.view, sync: `curves-${++made}`, onCursor,
      onZoom: (/** @type {Window} */ window) => this.zoom(window),
      say: (/** @type {string} */ text) => this.say(text),
    };
    this.names = /** @type {Set<string>} */ (new Set());
    this.scores = /** @type {Set<string>} */ (new Set());
    this.slots = /** @type {Map<string, Values>} */ (new Map());
    this.dirty = /** @type {Set<Values>} */ (new Set());
    this.others = OTHERS_AT_ONCE;
    this.timer = this.sayTimer = this.noteTimer = this.drawn = 0;
    this.stop = new AbortController();
    this.bodies = GROUPS.map(() => h("div", { class: "curve-charts" }));
    this.sections = GROUPS.map(({ title }, index) => section(title, this.bodies[index], index === GROUPS.length - 1));
    this.state = h("p", { class: "curve-state", role: "status" }, "Loading the curves …");
    this.live = h("p", { class: "curve-live", "aria-live": "polite" });
    this.element = h("div", { class: "curves" }, this.tools(), this.state, this.sections, this.live);
  }

  tools() {
    const { view } = this;
    const shown = h("output", {}, view.smooth.toFixed(2));
    const log = h("input", { type: "checkbox", checked: view.log, onchange: () => {
      view.log = log.checked;
      note({ log: view.log ? 1 : null });
      this.redraw();
    } });
    const range = { type: "range", min: 0, max: MOST_SMOOTHING, step: 0.01, value: view.smooth, title: FORMULA };
    const smooth = h("input", { ...range, oninput: () => {
      view.smooth = Number(smooth.value);
      shown.textContent = view.smooth.toFixed(2);
      this.redraw();
    }, onchange: () => note({ smooth: view.smooth || null }) }); // not while it moves: browsers refuse so many addresses
    this.steps = windowTools(view, (window) => this.zoom(window));
    const save = h("button", { type: "button", onclick: () => this.save() }, "Save as CSV");
    return h("div", { class: "curve-tools" }, h("label", {}, log, " Logarithmic"),
      h("label", { title: FORMULA }, "Smoothing w ", smooth, " ", shown), this.steps.element, save,
      h("p", { class: "curve-hint" }, "Drag to zoom, drag with Shift to move, double-click to show all."));
  }

  start() {
    const { signal } = this.stop;
    this.seen = new IntersectionObserver((entries) => this.sight(entries), { rootMargin: "100px" });
    this.sizes = new ResizeObserver(() => { for (const { chart } of this.slots.values()) chart.resize(); });
    this.sizes.observe(this.element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.view.palette = palette();
      this.redraw();
    }, { signal });
    document.addEventListener("visibilitychange", () => this.schedule(), { signal });
    this.begin();
  }

  /** Ask which metrics there are. */
  async begin() {
    try {
      const { data } = await get(this.path, this.stop.signal);
      for (const { name, step, best_step } of data) {
        this.names.add(name);
        if (best_step !== null) this.scores.add(name);
        this.view.last = Math.max(this.view.last, step);
      }
      this.arrange();
      this.steps?.allow();
    } catch (error) {
      if (!this.stop.signal.aborted) fill(this.state, failure(error, () => this.begin()));
    }
  }

  /** Make the charts of the present names; those that have all their curves stay as they are. */
  arrange() {
    const planned = plan([...this.names], this.scores);
    const kept = new Set();
    planned.forEach((charts, index) => {
      const shown = index === GROUPS.length - 1 ? charts.slice(0, this.others) : charts;
      const slots = shown.map(({ title, names }) => this.slot(`${index} ${title}`, title, names, kept));
      const elements = slots.map(({ chart }) => chart.element);
      const same = elements.every((element, at) => element === this.bodies[index].children[at]);
      if (!same || this.bodies[index].children.length !== elements.length) {
        fill(this.bodies[index], elements, shown.length < charts.length && this.more(charts.length - shown.length));
      }
      this.sections[index].hidden = charts.length === 0;
    });
    for (const [key, slot] of this.slots) if (!kept.has(slot)) this.remove(key, slot);
    fill(this.state, this.names.size ? null : "No values yet.");
  }

  /** @param {number} left */
  more(left) {
    const show = () => {
      this.others += OTHERS_AT_ONCE;
      this.arrange();
    };
    return h("button", { type: "button", onclick: show }, `Show more (${left} left)`);
  }

  /**
   * @param {string} key
   * @param {string} title
   * @param {string[]} names
   * @param {Set<Values>} kept
   * @returns {Values}
   */
  slot(key, title, names, kept) {
    let slot = this.slots.get(key);
    if (slot && slot.chart.names.join("\n") !== names.join("\n")) {
      this.remove(key, slot);
      slot = undefined;
    }
    if (!slot) {
      slot = new Values(new Chart(title, names, this.shared), {
        path: this.path, view: this.view, signal: this.stop.signal, onValues: (values, wait) => this.changed(values, wait),
      });
      this.slots.set(key, slot);
      this.seen?.observe(slot.chart.element);
    }
    kept.add(slot);
    return slot;
  }

  /**
   * @param {string} key
   * @param {Values} slot
   */
  remove(key, slot) {
    this.seen?.unobserve(slot.chart.element);
    this.dirty.delete(slot);
    this.slots.delete(key);
    slot.chart.destroy();
    slot.chart.element.remove();
  }

  /** @param {IntersectionObserverEntry[]} entries */
  sight(entries) {
    for (const { target, isIntersecting } of entries) {
      const slot = [...this.slots.values()].find(({ chart }) => chart.element === target);
      if (!slot) continue;
      slot.visible = isIntersecting;
      slot.ask();
    }
    this.schedule(0);
  }

  /**
   * Take an event of the job's stream.
   * @param {Event} event
   */
  push(event) {
    if (!LIVE.includes(event.type)) return;
    const before = this.names.size;
    if (event.type === "job.started") this.view.last = event.data.resumed ? event.data.step : 0;
    for (const [step, values] of measured(event)) {
      this.view.last = Math.max(this.view.last, step);
      for (const name of Object.keys(values)) this.names.add(name);
    }
    if (this.names.size > before) this.arrange();
    for (const slot of this.slots.values()) slot.push(event);
    this.steps?.allow();
  }

  /**
   * A chart has other values.
   * @param {Values} slot
   * @param {number} [wait] as for `schedule`
   */
  changed(slot, wait) {
    if (slot.window !== undefined) this.dirty.add(slot);
    this.schedule(wait);
  }

  /** Draw every chart anew, at once: the user has asked for it. */
  redraw() {
    for (const slot of this.slots.values()) if (slot.window !== undefined) this.dirty.add(slot);
    this.schedule(0);
  }

  /**
   * Draw what has changed, in one frame for all charts.
   * @param {number} [wait] milliseconds between two drawings
   */
  schedule(wait = REDRAW_MS) {
    if (document.hidden || this.stop.signal.aborted || (this.timer && wait)) return;
    clearTimeout(this.timer);
    const rest = Math.max(0, wait - (performance.now() - this.drawn));
    this.timer = setTimeout(() => requestAnimationFrame(() => this.flush()), rest);
  }

  flush() {
    this.timer = 0;
    this.drawn = performance.now();
    if (this.stop.signal.aborted) return;
    for (const slot of this.dirty) {
      if (!slot.visible) continue;
      this.dirty.delete(slot);
      slot.chart.draw();
    }
  }

  /** @param {Window} window */
  zoom(window) {
    this.view.window = window;
    this.steps?.allow();
    this.say(window ? `steps ${window.map((step) => step.toLocaleString("en")).join(" to ")}` : "all steps");
    clearTimeout(this.noteTimer);
    this.noteTimer = setTimeout(() => note({ from: window?.[0] ?? null, to: window?.[1] ?? null }), REST_MS);
    for (const slot of this.slots.values()) slot.ask();
    this.redraw();
  }

  /** @param {string} text */
  say(text) {
    clearTimeout(this.sayTimer);
    this.sayTimer = setTimeout(() => { this.live.textContent = text; }, REST_MS);
  }

  /** Save the values of the charts that have been in sight. */
  save() {
    const shown = [...this.slots.values()].filter(({ window }) => window !== undefined);
    save(new Blob([csv(shown.flatMap(({ chart }) => chart.series))], { type: "text/csv" }), `${this.jobId}-curves.csv`);
  }

  destroy() {
    this.stop.abort();
    clearTimeout(this.timer);
    clearTimeout(this.sayTimer);
    clearTimeout(this.noteTimer); // the address is another view's now
    this.seen?.disconnect();
    this.sizes?.disconnect();
    for (const { chart } of this.slots.values()) chart.destroy();
    this.slots.clear();
  }
}

/**
 * A group of charts under its heading. A folded group is drawn when it is opened, because only then is it in sight.
 * @param {string} title
 * @param {HTMLElement} body
 * @param {boolean} folded
 * @returns {HTMLElement}
 */
function section(title, body, folded) {
  const heading = h("h3", {}, title);
  const content = folded ? h("details", {}, h("summary", {}, heading), body) : [heading, body];
  return h("section", { class: "curve-group", "aria-label": title, hidden: true }, content);
}
