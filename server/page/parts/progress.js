// How far a run is: a bar, and the steps in words.

import { h } from "../dom.js";
import { count } from "../format.js";

/**
 * @param {{step: number, total_steps: number | null}} progress of a job
 * @returns {import("../dom.js").Child} "–" for a run that has never been planned, such as one cancelled in the queue
 */
export function progressBar({ step, total_steps: total }) {
  if (!total) return "–";
  return h("span", { class: "progress" },
    h("progress", { value: step, max: total, "aria-label": `step ${count(step)} of ${count(total)}` }), " ",
    h("span", { class: "muted" }, `${count(step)} / ${count(total)}`));
}
