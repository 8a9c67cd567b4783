// Asks again while something goes on, never for a hidden page.

import { Problem } from "../api.js";

const PERIOD_MS = 5000;

/**
 * Call `ask` every five seconds while it answers true. A round that fails is repeated by the next.
 * @param {() => Promise<boolean>} ask whether something still goes on
 * @returns {() => void} stops
 */
export function poll(ask) {
  let stopped = false;
  let timer = 0;

  async function round() {
    let goesOn = true;
    try {
      if (!document.hidden) goesOn = await ask();
    } catch (error) {
      if (error instanceof Problem && error.status === 401) location.reload();
    }
    if (goesOn && !stopped) timer = setTimeout(round, PERIOD_MS);
  }

  timer = setTimeout(round, PERIOD_MS);
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}
