// The runs that a comparison is about: some by their ids, those of an experiment, or those of a study.

import { get, Problem } from "../../api.js";

/** The most ids that the service compares at once. */
export const MOST_RUNS = 200;

/**
 * `left`: whether there are more runs than are compared; `missing`: ids that no run has (any more).
 * @typedef {{jobs: any[], left: boolean, missing: string[]}} Loaded
 */
/** `empty`: what is said if there is no run; `load`: the runs as they are now.
 * @typedef {{title: string, empty: string, load: () => Promise<Loaded>}} Source
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
  if (ids.length) return byId(ids);
  if (experiment) return ofExperiment(experiment);
  if (study) {
    const filter = { label: `study:${study}` };
    // Cancelled runs of a study are replaced by new ones, and a fork has the labels of its original.
    return { title: `Study ${study}`, empty: "The service has no run of this study. Its runs have the label study:NAME.",
      load: () => listed(filter, (job) => job.experiment_id && job.state !== "cancelled") };
  }
  return null;
}

/**
 * @param {string} id
 * @returns {Source}
 */
export function ofExperiment(id) {
  return { title: "Experiment", empty: "The service has no run of this experiment.",
    load: () => listed({ experiment_id: id }, () => true) };
}

/**
 * Runs by their ids. Those that have ended are asked for once.
 * @param {string[]} ids
 * @returns {Source}
 */
function byId(ids) {
  /** @type {Map<string, any>} null for a run that does not exist */
  const known = new Map();

  /** @param {string} id */
  async function ask(id) {
    try {
      known.set(id, await get(`/v1/jobs/${encodeURIComponent(id)}`));
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 404) throw error;
      known.set(id, null); // deleted: the others can still be compared
    }
  }

  async function load() {
    const wanted = ids.slice(0, MOST_RUNS);
    await Promise.all(wanted.filter((id) => known.get(id)?.terminal !== true).map(ask));
    return { jobs: wanted.map((id) => known.get(id)).filter((job) => job !== null), left: ids.length > MOST_RUNS,
      missing: wanted.filter((id) => known.get(id) === null) };
  }

  return { title: "Compare", empty: "The service has none of these runs.", load };
}

/**
 * All pages of a list, up to as many runs as are compared.
 * @param {Record<string, string>} filter
 * @param {(job: any) => boolean} belongs
 * @returns {Promise<Loaded>}
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
  return { jobs: jobs.slice(0, MOST_RUNS), left: more || jobs.length > MOST_RUNS, missing: [] };
}
