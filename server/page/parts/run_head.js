// The head of a run: its name, state and actions, and what it is, as it is now.

import { fill, h } from "../dom.js";
import { ago, count, duration, number, words } from "../format.js";
import { link } from "../route.js";
import { progressBar } from "./progress.js";
import { stateMark } from "./state.js";

/** Which actions a state allows. @type {Record<string, string[]>} */
const ACTIONS = {
  queued: ["pause", "cancel"], starting: ["pause", "cancel"], running: ["pause", "cancel"], pausing: ["cancel"],
  paused: ["resume", "cancel"], recovering: ["pause", "cancel"], cancelling: [], succeeded: ["delete"],
  failed: ["retry", "delete"], cancelled: ["delete"],
};

/**
 * @param {(action: string) => Promise<void>} act does what a button says; the buttons wait for it
 * @returns {{element: Element, draw: (job: any) => void}}
 */
export function runHead(act) {
  const title = h("h1");
  const state = h("span", { role: "status" });
  const progress = h("span", { class: "row" });
  const message = h("div");
  const facts = h("dl", { class: "facts" });
  const actions = h("div", { class: "row", role: "group", "aria-label": "Actions", tabindex: -1 });
  let drawn = "";

  /** @param {any} job */
  function draw(job) {
    title.textContent = job.name ?? job.id;
    fill(progress, job.progress.total_steps && progressBar(job.progress), speed(job));
    fill(facts, factsOf(job));
    const now = JSON.stringify([job.state, job.reason, job.message]);
    if (now === drawn) return; // a screen reader reads the state when it is set
    drawn = now;
    fill(state, stateMark(job));
    fill(message, job.message && h("p", { class: job.state === "failed" ? "note error" : "note" }, job.message));
    fill(actions, (ACTIONS[job.state] ?? []).map(button), h("a", { href: link(["new"], { from: job.id }) }, "New run like this"));
  }

  /** @param {string} action */
  function button(action) {
    return h("button", { type: "button", onclick: async () => {
      if (actions.getAttribute("aria-busy")) return; // pressed twice
      actions.setAttribute("aria-busy", "true");
      await act(action);
      actions.removeAttribute("aria-busy");
    } }, action);
  }

  const element = h("header", {}, title, h("p", { class: "row" }, state, progress), message, facts, actions);
  return { element, draw };
}

/** @param {any} job */
function speed({ state, progress: { images_per_second: speed, eta_seconds: eta } }) {
  const said = [speed !== null && `${number(speed)} images/s`, eta !== null && `${duration(eta)} left`].filter(Boolean);
  return state === "running" && said.length > 0 && h("span", { class: "muted" }, said.join(", "));
}

/** @param {any} job */
function factsOf(job) {
  const { metric, scores, forked_from: origin } = job;
  const name = metric && words(metric.name);
  return [
    fact("Variant", job.variant_label ?? job.variant ?? "–"), fact("Seed", job.seed ?? "–"),
    fact("Protocol", job.config.evaluation?.protocol ?? "–"),
    metric && fact(`${name}, last`, `${number(metric.latest)} at step ${count(metric.step)}`),
    metric && metric.best !== null && fact(`${name}, best`, `${number(metric.best)} at step ${count(metric.best_step)}`),
    scores?.best && fact(`${words(scores.metric)}, best scored again`, again(scores)),
    scores?.real && fact("Real images", number(scores.real[scores.metric])),
    fact("Attempt", job.attempt?.number ?? "–"), fact("Created", ago(job.created_at)),
    origin && fact("Forked from", h("a", { href: link(["jobs", origin.job_id]) }, `step ${count(origin.step)}`)),
    job.experiment_id && fact("Experiment", h("a", { href: link(["experiments", job.experiment_id]) }, job.experiment_id)),
    fact("Id", job.id),
  ];
}

/**
 * The best generator was chosen because it scored high, so its score flatters it; latents that had no part in the choice
 * do not.
 * @param {any} scores
 */
function again({ metric, best }) {
  return `${number(best.scores[metric])} at step ${count(best.step)}`;
}

/**
 * @param {string} name
 * @param {import("../dom.js").Child} value
 */
function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}
