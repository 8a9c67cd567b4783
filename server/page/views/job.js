// One run: state and actions, the sample film, curves, and what the run is made of, live while it runs.

import { change, get } from "../api.js";
import { connected, RECONNECTING } from "../connection.js";
import { h } from "../dom.js";
import { recipe } from "../format.js";
import { follow } from "../live.js";
import { agreed } from "../parts/actions.js";
import { checkpoints } from "../parts/checkpoints.js";
import { configuration } from "../parts/configuration.js";
import { curves } from "../parts/curves.js";
import { film } from "../parts/film.js";
import { health } from "../parts/health.js";
import { inTurn } from "../parts/in_turn.js";
import { logTail } from "../parts/log.js";
import { runHead } from "../parts/run_head.js";
import { note, redraw, stepOf } from "../route.js";

const REST_MS = 300;
/** What the header says. @type {Record<string, string>} */
const HEARD = { live: "live", again: "live", reconnecting: RECONNECTING, ended: "" };

/**
 * @param {string} jobId
 * @param {URLSearchParams} query
 * @returns {Promise<import("../main.js").View>}
 */
export async function job(jobId, query) {
  const path = `/v1/jobs/${encodeURIComponent(jobId)}`;
  let known = await get(path);
  const head = runHead(act);
  const answer = h("p", { role: "alert", class: "bad" });
  const parts = {
    film: film(jobId, { wanted: stepOf(query), onStep: (step) => note({ step }) }),
    curves: curves(jobId, {}),
    health: health(jobId, known.config.loss),
    log: logTail(jobId),
    checkpoints: checkpoints(jobId),
  };
  const reload = inTurn(async (signal) => learn(await get(path, signal)), REST_MS);

  /**
   * Show a newer state of the run. An answer that was on its way before the user acted is no newer one.
   * @param {any} job
   */
  function learn(job) {
    if (job.revision < known.revision) return;
    known = job;
    head.draw(known);
  }

  /** @param {string} action */
  async function act(action) {
    answer.textContent = "";
    try {
      if (!agreed(action, 1)) return;
      if (action === "delete") {
        await change("DELETE", path);
        location.hash = "#/";
        return;
      }
      const ended = known.terminal;
      learn(await change("POST", `${path}/${action}`));
      if (ended && !known.terminal) listen(); // its stream had ended too
    } catch (error) {
      answer.textContent = /** @type {Error} */ (error).message;
    }
  }

  /** @param {import("../live.js").Event} event */
  function heard(event) {
    if (event.type === "sample.created") parts.film.add(event.data);
    if (event.type === "job.progress" || event.type === "job.state" || event.type === "job.started") reload.ask();
    if (event.type.startsWith("checkpoint.")) parts.checkpoints.refresh();
    if (event.type === "log.lines") parts.log.refresh();
    if (event.type === "metric.batch") parts.health.refresh();
    parts.curves.push(event);
  }

  let stop = () => {};
  let gone = false;
  function listen() {
    stop();
    if (gone) return;
    stop = follow(jobId, heard, (state) => {
      connected(HEARD[state]);
      if (state === "live") reload.ask(); // what happened before the stream began
      if (state === "again") redraw();
    });
  }

  head.draw(known);
  if (!known.terminal) listen();
  const element = h("article", {}, h("p", {}, h("a", { href: "#/" }, "All runs")), head.element, answer,
    section("Samples", parts.film.element),
    section("Health", parts.health.element),
    section("Curves", parts.curves.element),
    h("div", { class: "two" },
      section("Configuration", configuration(known)),
      h("div", {}, section("Checkpoints", parts.checkpoints.element), section("Log", parts.log.element))));
  return { title: known.name ? `${known.name}, ${recipe(known)}` : jobId, element, destroy };

  function destroy() {
    gone = true;
    stop();
    reload.stop();
    for (const part of Object.values(parts)) part.destroy();
  }
}

/**
 * @param {string} title
 * @param {Element} content
 */
function section(title, content) {
  return h("section", { "aria-label": title }, h("h2", {}, title), content);
}
