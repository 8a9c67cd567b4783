// The runs that a comparison is about: some by their ids, those of an experiment, or those of a study.

import { get } from "../../api.js";

/** The most ids that the service compares at once. */
export const MOST_RUNS = 200;

/**
 * `left`: whether there are more runs than are compared; `load`: the runs as they are now.
 * @typedef {{title: string, load: () => Promise<{jobs: any[], left: boolean}>}} Source
 */

/**
 * The runs of an address; null if it names none.
 * @param {URLSearchParams} query
 * @returns {Source | null}
 */
export function sourceOf(query) {
  const ids = [...new Set(query.getAll("job"))];
  const experiment = query.get("experiment");
  const study = query.get("study")?.trim();
  if (ids.length) return { title: "Compare", load: () => byId(ids) };
  if (experiment) return ofExperiment(experiment);
  if (study) {
    const filter = { label: `study:${study}` };
    // Cancelled runs of a study are replaced by new ones, and a fork has the labels of its original.
    return { title: `Study ${study}`, load: () => listed(filter, (job) => job.experiment_id && job.state !== "cancelled") };
  }
  return null;
}

/**
 * @param {string} id
 * @returns {Source}
 */
export function ofExperiment(id) {
  return { title: "Experiment", load: () => listed({ experiment_id: id }, () => true) };
}

/** @param {string[]} ids */
async function byId(ids) {
  const jobs = await Promise.all(ids.slice(0, MOST_RUNS).map((id) => get(`/v1/jobs/${encodeURIComponent(id)}`)));
  return { jobs, left: ids.length > MOST_RUNS };
}

/**
 * All pages of a list, up to as many runs as are compared.
 * @param {Record<string, string>} filter
 * @param {(job: any) => boolean} belongs
 */
async function listed(filter, belongs) {
  const sent = new URLSearchParams({ ...filter, limit: String(MOST_RUNS), order: "asc" });
  /** @type {any[]} */
  let jobs = [];
  let more = true;
  while (more && jobs.length <= MOST_RUNS) {
    const page = await get(`/v1/jobs?${sent}`);
    jobs = [...jobs, ...page.data.filter(belongs)];
    more = page.has_more;
    sent.set("cursor", page.next_cursor ?? "");
  }
  return { jobs: jobs.slice(0, MOST_RUNS), left: more || jobs.length > MOST_RUNS };
}
