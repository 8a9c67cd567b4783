// Which runs may stand in one table: those whose scores were measured in the same way. No DOM here.

import { recipe, variantOf, words } from "../../format.js";

/**
 * Runs of one protocol and fingerprint. `fingerprint` is null while none of them has a final score.
 * @typedef {{key: string, protocol: string, fingerprint: string | null, jobs: any[]}} Group
 */

/** @typedef {{groups: Group[], apart: {job: any, why: string}[]}} Grouping */

/**
 * The metrics by which runs can be compared, those that rank them first. The details of a metric, which rank nothing,
 * have its name as a prefix.
 * @param {any[]} jobs
 * @returns {string[]} empty if no run has or will have a score
 */
export function metricsOf(jobs) {
  const scored = jobs.filter(({ scores }) => scores?.final);
  const ranking = count(jobs.map((job) => job.scores?.metric ?? job.metric?.name).filter(Boolean));
  const measured = scored.flatMap(({ scores }) => Object.keys(scores.final.scores));
  const names = [...new Set([...ranking, ...measured])];
  return names.filter((name) => !names.some((other) => name.startsWith(`${other}_`)));
}

/**
 * The different values, the most frequent first.
 * @param {string[]} values
 */
function count(values) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).map(([value]) => value);
}

/**
 * The runs by protocol and fingerprint of a metric. A run without a final score belongs to the group of the protocol in
 * its configuration, because a failed seed must stay visible in its table; unless it could belong to several.
 * @param {any[]} jobs
 * @param {string} metric
 * @returns {Grouping}
 */
export function grouped(jobs, metric) {
  /** @type {Map<string, Group>} */
  const groups = new Map();
  /** @type {Grouping["apart"]} */
  const apart = [];
  const put = (/** @type {any} */ job, /** @type {string} */ protocol, /** @type {string | null} */ fingerprint) => {
    const key = `${protocol} ${fingerprint ?? ""}`;
    const group = groups.get(key) ?? { key, protocol, fingerprint, jobs: [] };
    groups.set(key, group);
    group.jobs.push(job);
  };
  for (const job of jobs.filter(({ scores }) => scores?.final)) {
    const { protocol, fingerprints, final } = job.scores;
    if (metric in final.scores) put(job, protocol ?? "unknown", fingerprints[metric] ?? null);
    else apart.push({ job, why: `its scores have no ${words(metric)}` });
  }
  for (const job of jobs.filter(({ scores }) => !scores?.final)) {
    const protocol = job.config.evaluation?.protocol;
    const known = [...groups.values()].filter((group) => group.protocol === protocol);
    if (!protocol) apart.push({ job, why: "its configuration has no scoring" });
    else if (known.length > 1) apart.push({ job, why: `it has no score that tells which ${protocol} is its own` });
    else put(job, protocol, known[0]?.fingerprint ?? null);
  }
  return { groups: [...groups.values()], apart };
}

/**
 * The runs of each variant, under the names of the table where there is one.
 * @param {any[]} jobs
 * @param {any | null} table the answer of /v1/compare
 * @returns {Map<string, any[]>}
 */
export function variantsOf(jobs, table) {
  /** @type {Map<string, string>} */
  const named = new Map((table?.rows ?? []).flatMap((/** @type {any} */ row) =>
    row.jobs.map((/** @type {string} */ id) => [id, row.variant])));
  /** @type {Map<string, any[]>} */
  const found = new Map(); // in the order of the runs, so that a variant keeps its color when the ranking changes
  for (const job of jobs) {
    const name = named.get(job.id) ?? variantOf(job);
    found.set(name, [...(found.get(name) ?? []), job]);
  }
  return found;
}

/**
 * What tells a run from the others: its name, unless all of several have the same one, its variant and its seed.
 * @param {any[]} jobs
 * @returns {(job: any) => {own: string, name: string | null}}
 */
export function titles(jobs) {
  const named = jobs.length === 1 || new Set(jobs.map(({ name }) => name)).size > 1;
  return (job) => ({ own: recipe(job), name: named ? job.name ?? job.id : null });
}
