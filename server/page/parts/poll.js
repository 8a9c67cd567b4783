// Asks again while something goes on, never for a hidden page.

import { passes, Problem } from "../api.js";
import { connected, RECONNECTING } from "../connection.js";
import { redraw } from "../route.js";

const PERIOD_MS = 5000;

/**
 * Call `ask` every five seconds while it answers true. A round that fails is repeated by the next, and the header says
 * so.
 * @param {() => Promise<boolean>} ask whether something still goes on
 * @returns {() => void} stops
 */
export function poll(ask) {
  let stopped = false;
  let timer = 0;

  async function round() {
    let goesOn = true;
    if (!document.hidden) {
      try {
        goesOn = await ask();
        if (!stopped) connected("");
      } catch (error) {
        if (!stopped) failed(error);
      }
    }
    if (goesOn && !stopped) timer = setTimeout(round, PERIOD_MS);
  }

  timer = setTimeout(round, PERIOD_MS);
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

/** @param {unknown} error */
function failed(error) {
  if (passes(error)) connected(RECONNECTING);
  else if (!(error instanceof Problem)) reportError(error);
  else if (error.status === 401) redraw(); // it asks for the key
  else connected(`not up to date: ${error.message}`);
}
