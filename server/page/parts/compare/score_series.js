// The scores of a variant over its seeds at each step. No DOM here.

import { SOME } from "../columns.js";

/** @typedef {import("../columns.js").Series} Series */
/** @typedef {import("../columns.js").Point} Point */

/**
 * The mean over the seeds at each evaluated step, between the lowest and the highest seed. Seeds without a finite score
 * at a step do not enter; the point says how many did.
 * @param {string} name
 * @param {number} total the runs of the variant
 * @param {Series[]} seeds
 * @returns {Series}
 */
export function meanSeries(name, total, seeds) {
  /** @type {Map<number, Point[]>} */
  const steps = new Map();
  for (const point of seeds.flatMap(({ points }) => points)) steps.set(point.step, [...(steps.get(point.step) ?? []), point]);
  const points = [...steps].sort((a, b) => a[0] - b[0]).map(([step, found]) => meanPoint(step, total, found));
  return { name, points, covered: -1, bucketSteps: 1 };
}

/**
 * @param {number} step
 * @param {number} total
 * @param {Point[]} found
 * @returns {Point}
 */
function meanPoint(step, total, found) {
  const values = /** @type {number[]} */ (found.map(({ last }) => last).filter((last) => last !== null));
  const words = [...new Set(found.filter(({ last }) => last === null).map(({ word }) => word))];
  const note = values.length === total ? undefined : `${values.length} of ${total} seeds`;
  if (values.length === 0) return { step, last: null, min: null, max: null, word: words.length === 1 ? words[0] : SOME, note };
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return { step, last: mean, min: Math.min(...values), max: Math.max(...values), word: words.length ? SOME : null, note };
}
