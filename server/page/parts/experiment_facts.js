// What an experiment varies and how far it is, in words and marks.

import { h } from "../dom.js";
import { counted, valueText } from "../format.js";
import { stateMark } from "./state.js";

const ENDED = ["succeeded", "failed", "cancelled"];
const OPEN = ["running", "starting", "recovering", "pausing", "cancelling", "paused", "queued"];
const LISTED = 6;

/**
 * What is swept, such as "2 variants (none, mhe_sn), 3 seeds (0, 1, 2)".
 * @param {Record<string, any[]>} matrix
 * @returns {string}
 */
export function swept(matrix) {
  return Object.entries(matrix).map(([key, values]) => {
    const texts = values.map(valueText);
    const listed = texts.length > LISTED ? `${texts.slice(0, LISTED).join(", ")}, …` : texts.join(", ");
    return `${counted(key, values.length)} (${listed})`;
  }).join(", ");
}

/**
 * The base in words.
 * @param {any} base
 * @returns {import("../dom.js").Child[]}
 */
export function baseText({ preset, config, overrides }) {
  const changes = Object.entries(overrides ?? {});
  return [preset ? ["Preset ", h("code", {}, preset)] : config ? "A configuration of its own" : "The defaults",
    changes.length > 0 && [" with ", changes.map(([key, value], index) =>
      [index > 0 && ", ", h("code", {}, `${key} = ${valueText(value)}`)])], "."];
}

/**
 * How many runs have ended.
 * @param {Record<string, number>} counts by state
 * @returns {number}
 */
export function endedOf(counts) {
  return ENDED.reduce((sum, state) => sum + (counts[state] ?? 0), 0);
}

/**
 * The runs by state, and how many have ended.
 * @param {Record<string, number>} counts
 * @param {number} total
 * @returns {Element}
 */
export function states(counts, total) {
  const ended = endedOf(counts);
  const marks = [...ENDED, ...OPEN].filter((state) => counts[state])
    .map((state) => h("span", {}, `${counts[state]} `, stateMark({ state, reason: null })));
  return h("div", { class: "row states" },
    total > 0 && h("progress", { value: ended, max: total, "aria-label": `${ended} of ${total} runs ended` }),
    h("span", { class: "muted" }, total > 0 ? `${ended} of ${total} ended` : "no run is left"), marks);
}
