// Work that may be asked for at any time, done one at a time: no older answer can overwrite a newer one.

import { passes, Problem } from "../api.js";

const RETRY_MS = 2000;

/**
 * `ask` does the work at once, or once more after the present time if it is being done. Work that fails because the
 * service is away or busy is done again; what else it is refused for is the view's to say. `stop` ends it for good.
 * @param {(signal: AbortSignal) => Promise<void>} work the signal is aborted by `stop`
 * @param {number} [restMs] the least time between two times
 * @returns {{ask: () => void, stop: () => void}}
 */
export function inTurn(work, restMs = 0) {
  const abort = new AbortController();
  let busy = false;
  let wanted = false;
  let timer = 0;

  function ask() {
    wanted = true;
    if (!busy && !abort.signal.aborted) run();
  }

  async function run() {
    busy = true;
    wanted = false;
    let rest = restMs;
    try {
      await work(abort.signal);
    } catch (error) {
      if (abort.signal.aborted) return;
      if (passes(error)) {
        wanted = true;
        rest = Math.max(restMs, RETRY_MS);
      } else if (!(error instanceof Problem)) {
        reportError(error);
      }
    }
    timer = setTimeout(rested, rest);
  }

  function rested() {
    busy = false;
    if (wanted) ask();
  }

  return { ask, stop: () => {
    abort.abort();
    clearTimeout(timer);
  } };
}
