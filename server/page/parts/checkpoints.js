// The checkpoints of a run: download one, or draw images from it now.

import { address, get } from "../api.js";
import { fill, h } from "../dom.js";
import { count, size } from "../format.js";
import { drawingForm } from "./drawing.js";
import { inTurn } from "./in_turn.js";

/**
 * @param {string} jobId
 * @returns {{element: Element, refresh: () => void, destroy: () => void}}
 */
export function checkpoints(jobId) {
  const rows = h("tbody");
  const place = h("div");
  const empty = h("p", { class: "muted" }, "No checkpoint yet.");
  const table = h("div", { class: "table", hidden: true }, h("table", {},
    h("thead", {}, h("tr", {}, ["Step", "Size", "State", "Use"].map((text) => h("th", { scope: "col" }, text)))), rows));
  /** @type {ReturnType<typeof drawingForm> | null} */
  let form = null;

  /** @param {AbortSignal} signal */
  async function read(signal) {
    const { data } = await get(`/v1/jobs/${encodeURIComponent(jobId)}/checkpoints`, signal);
    const kept = data.filter((/** @type {any} */ each) => each.status !== "pruned").reverse();
    table.hidden = kept.length === 0;
    empty.hidden = kept.length > 0;
    fill(rows, kept.map((/** @type {any} */ each) => row(each, () => open(each))));
  }

  /** @param {any} checkpoint */
  function open(checkpoint) {
    form?.destroy();
    form = drawingForm(checkpoint);
    fill(place, form.element);
    form.focus();
  }

  const reading = inTurn(read);
  reading.ask();
  return { element: h("div", {}, empty, table, place), refresh: reading.ask, destroy: () => {
    reading.stop();
    form?.destroy();
  } };
}

/**
 * @param {any} checkpoint
 * @param {() => void} onDraw
 */
function row(checkpoint, onDraw) {
  const usable = checkpoint.status === "available";
  const step = count(checkpoint.step);
  return h("tr", {}, h("th", { scope: "row" }, step),
    h("td", {}, size(checkpoint.size_bytes)), h("td", {}, checkpoint.status),
    h("td", {}, usable && h("span", { class: "row" },
      h("a", { href: address(checkpoint.links.content), download: "", "aria-label": `Download step ${step}` }, "Download"),
      h("button", { type: "button", onclick: onDraw, "aria-label": `Draw samples of step ${step}` }, "Draw samples"))));
}
