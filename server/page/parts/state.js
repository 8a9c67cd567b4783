// The state of a run as a glyph and a word, never as a color alone.

import { h } from "../dom.js";
import { words } from "../format.js";

/** @type {Record<string, [string, string]>} */
const MARKS = {
  queued: ["◌", "muted"], starting: ["◔", "muted"], running: ["●", "good"], pausing: ["◑", "muted"],
  paused: ["‖", "warn"], recovering: ["↻", "warn"], cancelling: ["◑", "muted"], succeeded: ["✓", "good"],
  failed: ["✗", "bad"], cancelled: ["–", "muted"],
};

/**
 * @param {{state: string, reason: string | null}} job
 * @returns {Element}
 */
export function stateMark(job) {
  const [glyph, style] = MARKS[job.state] ?? ["?", "muted"];
  const reason = job.reason && job.reason !== "user" ? ` (${words(job.reason)})` : "";
  return h("span", { class: style }, h("span", { "aria-hidden": "true" }, `${glyph} `), `${job.state}${reason}`);
}
