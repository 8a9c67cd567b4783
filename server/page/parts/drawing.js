// Images from a checkpoint, drawn now: a task of the service that is waited for.

import { address, change, get, passes } from "../api.js";
import { fill, h } from "../dom.js";
import { count } from "../format.js";

const ASK_MS = 700;

/**
 * The form for images from a checkpoint, with the images of its last answer.
 * @param {any} checkpoint
 * @returns {{element: Element, focus: () => void, destroy: () => void}} `destroy` gives up waiting
 */
export function drawingForm(checkpoint) {
  const abort = new AbortController();
  const result = h("div", { role: "status" });
  const button = h("button", { class: "primary" }, "Draw");
  const images = field("n", "Images", { value: 64, min: 1, max: 1024, required: true });

  /** @param {SubmitEvent} event */
  async function submit(event) {
    event.preventDefault();
    const body = bodyOf(new FormData(/** @type {HTMLFormElement} */ (event.target)));
    button.disabled = true;
    result.textContent = "Drawing …";
    try {
      fill(result, ...pictureOf(await drawn(await change("POST", checkpoint.links.samples, body), abort.signal)));
    } catch (error) {
      if (!abort.signal.aborted) fill(result, h("p", { class: "bad" }, /** @type {Error} */ (error).message));
    }
    button.disabled = false;
  }

  const element = h("form", { class: "note", onsubmit: submit },
    h("p", {}, `Draw images from the checkpoint of step ${count(checkpoint.step)}.`),
    h("p", { class: "row" }, images,
      field("seed", "Seed", { value: 0, min: 0, required: true }),
      field("truncation", "Truncation", { placeholder: "none", min: 0.01, max: 100, step: "any" }),
      field("interpolation", "Images per interpolation", { value: 0, min: 0, max: 64, required: true }), button), result);
  return { element, focus: () => images.querySelector("input").focus(), destroy: () => abort.abort() };
}

/**
 * @param {string} name
 * @param {string} label
 * @param {Record<string, any>} attributes
 */
function field(name, label, attributes) {
  return h("label", {}, `${label} `, h("input", { name, type: "number", ...attributes }));
}

/** @param {FormData} chosen */
function bodyOf(chosen) {
  const truncation = chosen.get("truncation");
  return { n: Number(chosen.get("n")), seed: Number(chosen.get("seed")), format: "png",
    interpolation: Number(chosen.get("interpolation")), truncation: truncation ? Number(truncation) : null };
}

/**
 * The task once it has succeeded. It goes on while the service does not answer.
 * @param {any} task
 * @param {AbortSignal} signal
 */
async function drawn(task, signal) {
  let now = task;
  while (!now.terminal) {
    await new Promise((done) => setTimeout(done, ASK_MS));
    signal.throwIfAborted();
    try {
      now = await get(`/v1/tasks/${encodeURIComponent(task.id)}`, signal);
    } catch (error) {
      if (!passes(error)) throw error;
    }
  }
  if (now.state !== "succeeded") throw new Error(now.message ?? `the task is ${now.state}`);
  return now;
}

/** @param {any} task */
function pictureOf(task) {
  const source = address(task.result.url);
  return [h("img", { src: source, class: "drawn", alt: `generated samples, task ${task.id}` }),
    h("p", {}, h("a", { href: source, download: "" }, "Download"))];
}
