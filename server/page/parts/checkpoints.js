// The checkpoints of a run: download one, or draw images from it now.

import { address, change, get } from "../api.js";
import { fill, h } from "../dom.js";
import { size } from "../format.js";

const ASK_MS = 700;

/**
 * @param {string} jobId
 * @returns {{element: Element, refresh: () => void}}
 */
export function checkpoints(jobId) {
  const rows = h("tbody");
  const drawing = h("div");
  const empty = h("p", { class: "muted" }, "No checkpoint yet.");
  const table = h("div", { class: "table", hidden: true }, h("table", {},
    h("thead", {}, h("tr", {}, ["Step", "Size", "State", "Use"].map((text) => h("th", { scope: "col" }, text)))), rows));

  async function refresh() {
    const { data } = await get(`/v1/jobs/${jobId}/checkpoints`);
    const kept = data.filter((/** @type {any} */ each) => each.status !== "pruned").reverse();
    table.hidden = kept.length === 0;
    empty.hidden = kept.length > 0;
    fill(rows, kept.map((/** @type {any} */ each) => row(each, () => fill(drawing, form(each)))));
  }

  const quietly = () => { refresh().catch(() => {}); };
  quietly();
  return { element: h("div", {}, empty, table, drawing), refresh: quietly };
}

/**
 * @param {any} checkpoint
 * @param {() => void} onDraw
 */
function row(checkpoint, onDraw) {
  const usable = checkpoint.status === "available";
  return h("tr", {}, h("th", { scope: "row" }, checkpoint.step.toLocaleString("en")),
    h("td", {}, size(checkpoint.size_bytes)), h("td", {}, checkpoint.status),
    h("td", {}, usable && h("span", { class: "row" },
      h("a", { href: address(checkpoint.links.content), download: "" }, "Download"),
      h("button", { type: "button", onclick: onDraw, "aria-label": `Draw samples of step ${checkpoint.step}` }, "Draw samples"))));
}

/** @param {any} checkpoint */
function form(checkpoint) {
  const result = h("div", { role: "status" });
  const field = (/** @type {string} */ name, /** @type {string} */ label, /** @type {any} */ attributes) =>
    h("label", {}, `${label} `, h("input", { name, type: "number", ...attributes }));

  /** @param {SubmitEvent} event */
  async function submit(event) {
    event.preventDefault();
    const chosen = new FormData(/** @type {HTMLFormElement} */ (event.target));
    const truncation = chosen.get("truncation");
    const body = { n: Number(chosen.get("n")), seed: Number(chosen.get("seed")), format: "png",
      interpolation: Number(chosen.get("interpolation")), truncation: truncation ? Number(truncation) : null };
    result.textContent = "Drawing …";
    draw.disabled = true; // the images of two tasks would replace each other in any order
    try {
      await show(await change("POST", checkpoint.links.samples, body), result);
    } catch (error) {
      fill(result, h("p", { class: "bad" }, /** @type {Error} */ (error).message));
    }
    draw.disabled = false;
  }

  const draw = h("button", { class: "primary" }, "Draw");
  return h("form", { class: "note", onsubmit: submit },
    h("p", {}, `Draw images from the checkpoint of step ${checkpoint.step.toLocaleString("en")}.`),
    h("p", { class: "row" }, field("n", "Images", { value: 64, min: 1, max: 1024, required: true }),
      field("seed", "Seed", { value: 0, min: 0, required: true }),
      field("truncation", "Truncation", { placeholder: "none", min: 0.01, max: 100, step: "any" }),
      field("interpolation", "Images per interpolation", { value: 0, min: 0, max: 64, required: true }),
      draw), result);
}

/**
 * Wait for a task and show its images.
 * @param {any} task
 * @param {Element} result
 */
async function show(task, result) {
  while (!task.terminal) {
    await new Promise((done) => setTimeout(done, ASK_MS));
    task = await get(`/v1/tasks/${task.id}`);
  }
  if (task.state !== "succeeded") throw new Error(task.message ?? `the task is ${task.state}`);
  const source = address(task.result.url);
  fill(result, h("img", { src: source, class: "drawn", alt: `generated samples, task ${task.id}` }),
    h("p", {}, h("a", { href: source, download: "" }, "Download")));
}
