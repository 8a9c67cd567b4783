// What the request would cost, and how long that took this machine before.

import { get } from "../../api.js";
import { h } from "../../dom.js";
import { count, duration } from "../../format.js";
import { link } from "../../route.js";
import { composed, merge, nested, valueAt } from "./schema.js";

/**
 * @typedef {import("./request.js").Asked} Asked
 * @typedef {import("./request.js").Catalogue} Catalogue
 */

const EARLIER_RUNS = 100;
/** The keys that a run's speed depends on most; penalties matter too, hence "about". */
const OF_SPEED = new RegExp("^(generator\\.(architecture|width|latent_dim)|discriminator\\.|data\\.(name|image_size)|"
  + "training\\.(batch_size|n_dis|precision|device))");

/**
 * The cost in words.
 * @param {Asked} asked
 * @param {any} estimate as a dry run answers
 * @param {{seconds: number, run: any} | null} time
 */
export function costText(asked, estimate, time) {
  const scored = estimate.scored_images ? `${count(estimate.scored_images)} images to score` : "nothing to score";
  const several = asked.jobs > 1;
  return [
    h("p", {}, `${count(estimate.steps)} steps, ${count(estimate.images)} real images to train on, ${scored}`,
      several ? `, in all ${count(asked.jobs)} runs together.` : "."),
    time && h("p", {}, `About ${duration(time.seconds)} of training on this machine`,
      several && ", one run after the other", ", at the speed of the last run of this preset (",
      h("a", { href: link(["jobs", time.run.id]) }, time.run.name ?? time.run.id), ")."),
  ];
}

/**
 * The newest runs that have measured their speed.
 * @returns {Promise<any[]>}
 */
export async function earlierRuns() {
  const { data } = await get(`/v1/jobs?state=running&state=succeeded&limit=${EARLIER_RUNS}`);
  return data.filter((/** @type {any} */ run) => run.progress.images_per_second > 0);
}

/**
 * How long the request would take at the speed of the last run like it; null if there was none.
 * @param {Asked} asked
 * @param {any} estimate
 * @param {any[]} runs
 * @param {Catalogue} catalogue
 */
export function timeLike(asked, estimate, runs, catalogue) {
  const { preset, overrides = {}, matrix = {} } = asked.body;
  if (Object.keys(matrix).some((key) => OF_SPEED.test(key))) return null;
  const base = catalogue.presets.find(({ name }) => name === preset)?.document ?? {};
  const document = merge(composed(base, null, undefined), nested(overrides));
  const keys = [...catalogue.keys.values()].filter(({ key }) => OF_SPEED.test(key));
  const run = runs.find(({ config }) => keys.every(({ key, byDefault }) =>
    valueAt(config, key) === (valueAt(document, key) ?? byDefault)));
  return run ? { seconds: estimate.images / run.progress.images_per_second, run } : null;
}
