// The end of a job's log.

import { get } from "../api.js";
import { h } from "../dom.js";

const TAIL_BYTES = 16 * 1024;

/**
 * @param {string} jobId
 * @returns {{element: Element, refresh: () => void}}
 */
export function logTail(jobId) {
  const text = h("pre", { tabindex: 0, role: "group", "aria-label": "End of the log" }, "");
  let offset = 0;
  let shown = "";
  let busy = false;

  async function refresh() {
    if (busy) return;
    busy = true;
    try {
      for (;;) {
        const chunk = await get(`/v1/jobs/${jobId}/logs?after=${offset}&limit=${2 ** 20}`);
        offset = chunk.next_offset;
        shown = (shown + chunk.text).slice(-TAIL_BYTES);
        if (chunk.text.length < 2 ** 19) break;
      }
      const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 4;
      text.textContent = shown || "Nothing was written yet.";
      if (atEnd) text.scrollTop = text.scrollHeight;
    } catch (error) {
      text.textContent = shown || /** @type {Error} */ (error).message;
    }
    busy = false;
  }

  refresh();
  return { element: text, refresh };
}
