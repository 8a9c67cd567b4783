// Asks again while something goes on, never for a hidden page.

import { Problem } from "../api.js";
import { connected } from "../main.js";

const PERIOD_MS = 5000;

/**
 * Call `ask` every five seconds while it answers true. A round that fails is repeated by the next; until then the header
 * says that what is shown is old.
 * @param {() => Promise<boolean>} ask whether something still goes on
 * @returns {() => void} stops
 */
export function poll(ask) {
  let stopped = false;
  let timer = 0;

  async function round() {
    let goesOn = true;
    try {
      if (!document.hidden) {
        goesOn = await ask();
        if (!stopped) connected("");
      }
    } catch (error) {
      if (error instanceof Problem && error.status === 401) location.reload();
      if (!stopped) connected("reconnecting …");
    }
    if (goesOn && !stopped) timer = setTimeout(round, PERIOD_MS);
  }

  timer = setTimeout(round, PERIOD_MS);
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}
