// The numbers behind a chart: points of a metric sorted by step, and the columns that uPlot draws. No DOM here.

import { number } from "../format.js";

/**
 * The values of one or more steps. `last` is null where the newest value is not finite; `word` names what is not:
 * "NaN", "Infinity", "-Infinity", or "some non-finite" if other values of the bucket are finite. `note`: what must be said
 * beside the value.
 * @typedef {{step: number, last: number | null, min: number | null, max: number | null, word: string | null,
 *   note?: string}} Point
 */

/**
 * @typedef {{step: number, last: number | string, min: number | null, max: number | null, nonfinite: number}} Bucket
 */

/**
 * The points of one metric. `covered`: the last step that the history has in buckets of several steps, -1 for none.
 * @typedef {{name: string, points: Point[], covered: number, bucketSteps: number}} Series
 */

/** @typedef {(number | null | undefined)[]} Column */

export const SOME = "some non-finite";

/**
 * @param {Bucket} bucket
 * @returns {Point}
 */
function pointOf({ step, last, min, max, nonfinite }) {
  if (typeof last === "string") return { step, last: null, min, max, word: last };
  return { step, last, min, max, word: nonfinite > 0 ? SOME : null };
}

/**
 * A metric's history as the API tells it.
 * @param {{name: string, bucket_steps: number, points: (Bucket & {last_step: number})[]}} history
 * @returns {Series}
 */
export function seriesOf({ name, bucket_steps, points }) {
  const covered = bucket_steps > 1 ? Math.max(-1, ...points.slice(-1).map((bucket) => bucket.last_step)) : -1;
  return { name, points: points.map(pointOf), covered, bucketSteps: bucket_steps };
}

/**
 * The first position whose step is at least `step`.
 * @param {{step: number}[]} points
 * @param {number} step
 * @returns {number}
 */
function position(points, step) {
  let low = 0;
  let high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].step < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Add a value that has just been measured. A repeated step replaces its value; a step inside a bucket is known already.
 * @param {Series} series
 * @param {number} step
 * @param {number | string} value
 */
export function add(series, step, value) {
  const { points, covered } = series;
  const newest = points.length ? points[points.length - 1].step : -1;
  if (series.bucketSteps > 1 && step <= newest) return;
  const finite = typeof value === "number" ? value : null;
  const point = pointOf({ step, last: value, min: finite, max: finite, nonfinite: Number(finite === null) });
  const at = position(points, step);
  const bucket = points[points.length - 1];
  if (step <= covered && bucket) points[points.length - 1] = merged(bucket, point);
  else points.splice(at, points[at]?.step === step ? 1 : 0, point);
}

/**
 * A bucket and a newer point that falls into it.
 * @param {Point} bucket
 * @param {Point} point
 * @returns {Point}
 */
function merged(bucket, point) {
  /** @param {"min" | "max"} kind @returns {number | null} */
  const extreme = (kind) => {
    const finite = [bucket[kind], point[kind]].filter((each) => each !== null);
    return finite.length ? Math[kind](.../** @type {number[]} */ (finite)) : null;
  };
  return { ...point, min: extreme("min"), max: extreme("max"), word: point.word ?? (bucket.word && SOME) };
}

/**
 * Drop the points of later steps: a run has resumed at `step` and repeats them.
 * @param {Series} series
 * @param {number} step -1 drops all
 */
export function dropAfter(series, step) {
  series.points.splice(position(series.points, step + 1));
  series.covered = Math.min(series.covered, step);
}

/**
 * The exponential moving average s = w * s + (1 - w) * x, begun with the first value. Values that are not finite stay
 * gaps and do not enter.
 * @param {Column} values
 * @param {number} weight from 0 (no smoothing) to below 1
 * @returns {Column}
 */
export function smoothed(values, weight) {
  /** @type {number | null} */
  let state = null;
  return values.map((value) => {
    if (value === null || value === undefined) return value;
    state = state === null ? value : weight * state + (1 - weight) * value;
    return state;
  });
}

/**
 * All series over their common steps. A step that a series does not have is undefined there, which uPlot passes over;
 * a value that is not finite is null, which it draws as a gap.
 * @param {Series[]} all
 * @returns {{steps: number[], last: Column[], min: Column[], max: Column[]}}
 */
export function table(all) {
  const steps = [...new Set(all.flatMap(({ points }) => points.map(({ step }) => step)))].sort((a, b) => a - b);
  const row = new Map(steps.map((step, index) => [step, index]));
  /** @param {"last" | "min" | "max"} kind */
  const columns = (kind) => all.map(({ points }) => {
    /** @type {Column} */
    const column = new Array(steps.length).fill(undefined);
    for (const point of points) column[row.get(point.step) ?? 0] = point[kind];
    return column;
  });
  return { steps, last: columns("last"), min: columns("min"), max: columns("max") };
}

/**
 * Why the series cannot be drawn on a logarithmic scale; null if they can.
 * @param {Series[]} all
 * @returns {string | null}
 */
export function notPositive(all) {
  for (const { name, points } of all) {
    const found = points.find(({ min }) => min !== null && min <= 0);
    if (found) return `not logarithmic: ${name} is ${number(found.min)} at step ${found.step}`;
  }
  return null;
}

/**
 * How often each kind of non-finite value occurs, by its word.
 * @param {Point[]} points
 * @returns {Map<string, {count: number, first: number}>}
 */
export function nonFinite(points) {
  /** @type {Map<string, {count: number, first: number}>} */
  const found = new Map();
  for (const { word, step } of points) {
    if (word) found.set(word, { count: (found.get(word)?.count ?? 0) + 1, first: found.get(word)?.first ?? step });
  }
  return found;
}

/**
 * At most `limit` of the indices 0..length-1, evenly spread, with the first and the last.
 * @param {number} length
 * @param {number} limit
 * @returns {number[]}
 */
export function spread(length, limit) {
  if (length <= limit) return Array.from({ length }, (_, index) => index);
  return Array.from({ length: limit }, (_, index) => Math.round((index * (length - 1)) / (limit - 1)));
}

/**
 * The series as a CSV document (RFC 4180), a line for each value.
 * @param {Series[]} all
 * @returns {string}
 */
export function csv(all) {
  /** @param {string | number | null} cell */
  const quoted = (cell) => {
    const text = String(cell ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const rows = all.flatMap(({ name, points }) =>
    points.map(({ step, last, min, max, word }) => [name, step, last ?? word, min, max, last === null ? null : word]));
  const lines = [["name", "step", "value", "min", "max", "note"], ...rows];
  return lines.map((cells) => `${cells.map(quoted).join(",")}\r\n`).join("");
}
