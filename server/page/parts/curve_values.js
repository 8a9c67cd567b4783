// The values of one chart: asked for once it is in sight and for each new window, then kept up with the job's events.

import { get } from "../api.js";
import { fill, h } from "../dom.js";
import { add, dropAfter, seriesOf } from "./columns.js";

/** @typedef {{type: string, data: any}} Event */
/** @typedef {import("./curve_window.js").Window} Window */

/**
 * `path`: the address of the job's metrics; `signal`: aborted with the view; `onValues`: there are other values to draw,
 * at once if `wait` is 0.
 * @typedef {{path: string, view: import("./plot.js").View, signal: AbortSignal,
 *   onValues: (values: Values, wait?: number) => void}} Given
 */

const [FEWEST_POINTS, MOST_POINTS] = [300, 2000];
const MERGED_AT = 1.5; // times the points asked for: so many more than there are pixels are asked for anew

export class Values {
  visible = false;
  /** Of which window they are; undefined while there are none that can be drawn. @type {Window | undefined} */
  window = undefined;
  #asks = false;
  #points = FEWEST_POINTS;
  /** Events that came while it asked. @type {Event[]} */
  #missed = [];
  #failure = h("div", { class: "curve-failure" });

  /**
   * @param {import("./chart.js").Chart} chart
   * @param {Given} given
   */
  constructor(chart, given) {
    this.chart = chart;
    this.given = given;
    chart.element.append(this.#failure);
  }

  /** Ask for the values, if the chart is in sight and has not those of the present window. */
  async ask() {
    const { view, signal, onValues } = this.given;
    const { window } = view;
    if (!this.visible || this.#asks || this.window === window) return;
    this.#asks = true;
    this.#missed = [];
    try {
      const { data } = await get(this.#address(window), signal);
      this.chart.series = data.map(seriesOf);
      for (const event of this.#missed) this.#apply(event, window);
      // Of a run that goes on, these values may be newer than the list of the metrics.
      view.last = Math.max(view.last, ...this.chart.series.map(({ points }) => points.at(-1)?.step ?? 0));
      fill(this.#failure);
      this.window = window;
      this.#asks = false;
      onValues(this, 0);
      this.ask(); // the window may have changed meanwhile
    } catch (error) {
      this.#asks = false;
      if (!signal.aborted) fill(this.#failure, failure(error, () => this.ask()));
    }
  }

  /**
   * A value for each pixel, with the extremes of the steps that it stands for; each value where there are no more.
   * @param {Window} window
   */
  #address(window) {
    this.#points = Math.min(Math.max(this.chart.host.clientWidth, FEWEST_POINTS), MOST_POINTS);
    const names = this.chart.names.map((name) => ["name", name]);
    const query = new URLSearchParams([...names, ["max_points", String(this.#points)], ["mode", "minmax"]]);
    if (window) {
      query.set("from_step", String(window[0]));
      query.set("to_step", String(window[1]));
    }
    return `${this.given.path}/history?${query}`;
  }

  /**
   * Take an event of the job's stream.
   * @param {Event} event
   */
  push(event) {
    if (this.#asks) this.#missed.push(event);
    else if (this.window !== undefined) this.#apply(event, this.window);
    else return;
    if (this.chart.series.some(({ points }) => points.length > MERGED_AT * this.#points)) {
      this.window = undefined; // the service merges them
      this.ask();
    }
    this.given.onValues(this);
  }

  /**
   * @param {Event} event
   * @param {Window} window
   */
  #apply(event, window) {
    const { series } = this.chart;
    if (event.type === "job.started") {
      for (const each of series) dropAfter(each, event.data.resumed ? event.data.step : -1);
      return;
    }
    const [from, to] = window ?? [0, Infinity];
    for (const [step, values] of measured(event)) {
      if (step < from || step > to) continue;
      for (const each of series) if (Object.hasOwn(values, each.name)) add(each, step, values[each.name]);
    }
  }
}

/**
 * What is said in place of values that did not come.
 * @param {any} error
 * @param {() => void} again
 */
export function failure(error, again) {
  return [h("span", { role: "alert" }, `The values cannot be shown: ${error.message}. `),
    h("button", { type: "button", onclick: again }, "Try again")];
}

/**
 * The values in an event, step by step. A rescored best generator is left out: its step has a score already.
 * @param {Event} event
 * @returns {[number, Record<string, number | string>][]}
 */
export function measured({ type, data }) {
  if (type === "metric.batch") return data.points.map((/** @type {any} */ point) => [point.step, point.values]);
  if (type === "evaluation.completed" && data.purpose !== "best_rescored") return [[data.step, data.scores]];
  return [];
}
