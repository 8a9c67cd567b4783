// One run: state and actions, the sample film, curves, and what the run is made of, live while it runs.

import { change, get } from "../api.js";
import { fill, h } from "../dom.js";
import { ago, duration, number } from "../format.js";
import { follow } from "../live.js";
import { agreed } from "../parts/actions.js";
import { checkpoints } from "../parts/checkpoints.js";
import { configuration } from "../parts/configuration.js";
import { curves } from "../parts/curves.js";
import { film } from "../parts/film.js";
import { health } from "../parts/health.js";
import { logTail } from "../parts/log.js";
import { stateMark } from "../parts/state.js";
import { link, note } from "../route.js";

/** Which actions a state allows. @type {Record<string, string[]>} */
const ACTIONS = {
  queued: ["pause", "cancel"], starting: ["pause", "cancel"], running: ["pause", "cancel"], pausing: ["cancel"],
  paused: ["resume", "cancel"], recovering: ["pause", "cancel"], cancelling: [], succeeded: ["delete"],
  failed: ["retry", "delete"], cancelled: ["delete"],
};
/** @type {Record<string, string>} */
const HEARD = { live: "live", again: "live", reconnecting: "reconnecting …", ended: "" };

/**
 * @param {string} jobId
 * @param {URLSearchParams} query
 * @param {(text: string) => void} connected
 * @returns {Promise<import("../main.js").View>}
 */
export async function job(jobId, query, connected) {
  let known = await get(`/v1/jobs/${encodeURIComponent(jobId)}`);
  const head = h("header");
  const actions = h("div", { class: "row", role: "group", "aria-label": "Actions" });
  let actionsOf = "";
  const answer = h("p", { role: "alert", class: "bad" });
  const wanted = query.get("step");
  const parts = {
    film: film(jobId, { wanted: wanted === null ? null : Number(wanted), onStep: (step) => note({ step }) }),
    curves: curves(jobId, {}),
    health: health(jobId, known.config.loss),
    log: logTail(jobId),
    checkpoints: checkpoints(jobId),
  };

  function draw() {
    fill(head, ...heading(known));
    if (actionsOf === known.state) return; // a button that is drawn anew while it is pressed gets no click
    actionsOf = known.state;
    fill(actions, (ACTIONS[known.state] ?? []).map((action) => h("button", { type: "button", onclick: () => act(action) }, action)),
      h("a", { href: link(["new"], { from: jobId }) }, "New run like this"));
  }

  /** @param {string} action */
  async function act(action) {
    answer.textContent = "";
    try {
      if (!agreed(action, 1)) return;
      if (action === "delete") {
        await change("DELETE", `/v1/jobs/${jobId}`);
        location.hash = "#/";
        return;
      }
      const ended = known.terminal;
      known = await change("POST", `/v1/jobs/${jobId}/${action}`);
      if (ended) drawView(); // it goes on, so it is followed again
      else draw();
    } catch (error) {
      answer.textContent = /** @type {Error} */ (error).message;
    }
  }

  /** @param {import("../live.js").Event} event */
  function heard(event) {
    if (event.type === "sample.created") parts.film.add(event.data);
    if (event.type === "job.progress" || event.type === "job.state" || event.type === "job.started") reload();
    if (event.type.startsWith("checkpoint.")) parts.checkpoints.refresh();
    if (event.type === "log.lines") parts.log.refresh();
    if (event.type === "metric.batch") parts.health.refresh();
    parts.curves.push(event);
  }

  let asked = false;
  async function reload() {
    if (asked) return;
    asked = true;
    setTimeout(async () => {
      asked = false;
      try {
        known = await get(`/v1/jobs/${jobId}`);
        draw();
      } catch { /* the stream says when the service is back */ }
    }, 300);
  }

  draw();
  const stop = known.terminal ? () => {} : follow(jobId, heard, (state) => {
    connected(HEARD[state]);
    if (state === "again") drawView();
  });
  const element = h("article", {}, h("p", {}, h("a", { href: "#/" }, "All runs")), head, actions, answer,
    section("Samples", parts.film.element),
    section("Health", parts.health.element),
    section("Curves", parts.curves.element),
    h("div", { class: "two" },
      section("Configuration", configuration(known)),
      h("div", {}, section("Checkpoints", parts.checkpoints.element), section("Log", parts.log.element))));
  return { title: known.name ? `${known.name}, ${trained(known)}` : jobId, element, destroy };

  function destroy() {
    stop();
    parts.film.destroy();
    parts.curves.destroy();
  }
}

/**
 * @param {string} title
 * @param {Element} content
 */
function section(title, content) {
  return h("section", { "aria-label": title }, h("h2", {}, title), content);
}

function drawView() {
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/** What tells a run from the others of its experiment, which have its name. @param {any} known */
function trained(known) {
  return `${known.variant_label ?? known.variant ?? "–"}, seed ${known.seed ?? "–"}`;
}

/** @param {any} known */
function heading(known) {
  const { step, total_steps: total, images_per_second: speed, eta_seconds: eta } = known.progress;
  return [
    h("h1", {}, known.name ?? known.id),
    h("p", { class: "row" }, stateMark(known),
      total && h("progress", { value: step, max: total, "aria-label": `step ${step} of ${total}` }),
      total && h("span", {}, `step ${step.toLocaleString("en")} of ${total.toLocaleString("en")}`),
      known.state === "running" && speed !== null && h("span", { class: "muted" }, `${number(speed)} images/s, ${duration(eta)} left`)),
    known.message && h("p", { class: known.state === "failed" ? "note error" : "note" }, known.message),
    h("dl", { class: "facts" },
      fact("Variant", known.variant_label ?? known.variant ?? "–"), fact("Seed", known.seed ?? "–"),
      fact("Protocol", known.config.evaluation?.protocol ?? "–"),
      known.metric && fact(`${known.metric.name.replaceAll("_", " ")}, last`,
        `${number(known.metric.latest)} at step ${known.metric.step}`),
      known.metric && known.metric.best !== null && fact(`${known.metric.name.replaceAll("_", " ")}, best`,
        `${number(known.metric.best)} at step ${known.metric.best_step}`),
      known.scores?.real && fact("Real images", number(known.scores.real[known.scores.metric])),
      fact("Attempt", known.attempt?.number ?? "–"), fact("Created", ago(known.created_at)),
      known.forked_from && fact("Forked from", h("a", { href: link(["jobs", known.forked_from.job_id]) },
        `step ${known.forked_from.step}`)),
      known.experiment_id && fact("Experiment", h("a", { href: link(["experiments", known.experiment_id]) }, known.experiment_id)),
      fact("Id", known.id)),
  ];
}

/**
 * @param {string} name
 * @param {import("../dom.js").Child} value
 */
function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}
