// The end of a run's log.

import { get, passes } from "../api.js";
import { h } from "../dom.js";
import { inTurn } from "./in_turn.js";

const TAIL_CHARACTERS = 16 * 1024;
const CHUNK_BYTES = 2 ** 20; // the most that the service sends

/**
 * @param {string} jobId
 * @returns {{element: Element, refresh: () => void, destroy: () => void}}
 */
export function logTail(jobId) {
  const text = h("pre", { tabindex: 0, role: "group", "aria-label": "End of the log" }, "");
  let offset = 0;
  let shown = "";

  /** Read what was written since. @param {AbortSignal} signal */
  async function read(signal) {
    let chunk;
    do {
      chunk = await get(`/v1/jobs/${encodeURIComponent(jobId)}/logs?after=${offset}&limit=${CHUNK_BYTES}`, signal);
      offset = chunk.next_offset;
      shown = (shown + chunk.text).slice(-TAIL_CHARACTERS);
    } while (offset - chunk.offset > CHUNK_BYTES / 2); // a shorter one was the last
  }

  /** @param {AbortSignal} signal */
  async function show(signal) {
    try {
      await read(signal);
    } catch (error) {
      if (signal.aborted) return;
      text.textContent = shown || /** @type {Error} */ (error).message;
      if (passes(error)) throw error; // it is tried again
      return;
    }
    const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 4;
    text.textContent = shown || "Nothing was written yet.";
    if (atEnd) text.scrollTop = text.scrollHeight;
  }

  const showing = inTurn(show);
  showing.ask();
  return { element: text, refresh: showing.ask, destroy: showing.stop };
}
