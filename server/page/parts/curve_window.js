// The window of steps that all charts of a job show: read from the address, moved and narrowed.

import { h } from "../dom.js";

/** @typedef {[number, number] | null} Window the first and the last step in sight, null for all */

const HALF = 0.5; // of its width: so far a button moves the window

/**
 * The window in the query of an address; null unless both ends are steps in order.
 * @param {URLSearchParams} query
 * @returns {Window}
 */
export function windowOf(query) {
  const [from, to] = [query.get("from"), query.get("to")].map((text) => Number(text || NaN));
  return Number.isSafeInteger(from) && Number.isSafeInteger(to) && from >= 0 && from < to ? [from, to] : null;
}

/**
 * The window moved by a share of its width, to the right if positive, as far as there are steps.
 * @param {Window} window
 * @param {number} share
 * @param {number} last the newest step
 * @returns {Window}
 */
export function moved(window, share, last) {
  if (window === null) return null;
  const [from, to] = window;
  const rightmost = Math.max(from, last - (to - from)); // a window that already reaches beyond stays
  const start = Math.min(Math.max(from + Math.round(share * (to - from)), 0), rightmost);
  return [start, start + to - from];
}

/**
 * The half of the window around a step; the window itself where it is too small.
 * @param {Window} window
 * @param {number} step
 * @param {number} last the newest step
 * @returns {Window}
 */
export function narrowed(window, step, last) {
  const [from, to] = window ?? [0, Math.max(1, last)];
  const quarter = Math.max(1, Math.ceil((to - from) / 4));
  return to - from > 2 ? [Math.max(0, step - quarter), step + quarter] : window;
}

/**
 * Buttons that move the window and leave it. `allow` makes those usable that would change something now.
 * @param {{window: Window, last: number}} view
 * @param {(window: Window) => void} onZoom
 * @returns {{element: HTMLElement, allow: () => void}}
 */
export function windowTools(view, onZoom) {
  const button = (/** @type {string} */ text, /** @type {() => Window} */ next) =>
    h("button", { type: "button", onclick: () => onZoom(next()) }, text);
  const earlier = button("← Earlier", () => moved(view.window, -HALF, view.last));
  const later = button("Later →", () => moved(view.window, HALF, view.last));
  const all = button("Show all steps", () => null);
  const allow = () => {
    all.disabled = view.window === null;
    earlier.disabled = view.window === null || view.window[0] === 0;
    later.disabled = view.window === null || view.window[1] >= view.last;
  };
  allow();
  return { element: h("div", { class: "curve-window", role: "group", "aria-label": "Steps shown" }, earlier, later, all),
    allow };
}
