// A forest plot: for each variant its seeds, their mean and its interval, and the score of real images.

import { number, words } from "../../format.js";
import { INK, label, range, svg, ticks } from "../svg.js";

const WIDTH = 760;
const ROW = 30;
const TOP = 26;
const LABEL = 220;
const RIGHT = 24;
const AXIS = 40;
const MOST_LETTERS = 30;

/**
 * @param {any} table the answer of /v1/compare
 * @param {Map<string, any>} jobs by id
 * @returns {import("../export.js").Picture}
 */
export function forest(table, jobs) {
  const rows = table.rows.filter((/** @type {any} */ row) => typeof row.mean === "number");
  // At equal training time the compared scores of single seeds are not told; their final ones would be others.
  const seeds = rows.map((/** @type {any} */ row) => (table.view === "steps" ? seedsOf(row, jobs, table.metric) : []));
  const values = [...seeds.flat(), ...rows.flatMap((/** @type {any} */ row) => [row.ci_low, row.ci_high, row.mean]), table.real]
    .filter((value) => typeof value === "number");
  const [low, high] = range(values.length ? values : [0, 1]);
  const place = (/** @type {number} */ value) => LABEL + ((value - low) / (high - low)) * (WIDTH - LABEL - RIGHT);
  const bottom = TOP + ROW * rows.length;
  const metric = words(table.metric);
  const title = `${metric} by variant, protocol ${table.protocol}`;
  const percent = Math.round(100 * table.confidence);
  const description = `Square: mean over training seeds. Line: ${percent} % interval. `
    + `${table.view === "steps" ? "Circles: seeds. " : ""}${typeof table.real === "number" ? `Dashed: real images ${number(table.real)}. ` : ""}`
    + rows.map((/** @type {any} */ row) => `${row.variant}: ${number(row.mean)}, n = ${row.n}`).join("; ");
  const element = svg("svg", { viewBox: `0 0 ${WIDTH} ${bottom + AXIS}`, class: "forest", role: "img",
    "aria-label": `Scores by variant: ${title}. ${description}` },
  ...axis(low, high, place, bottom, metric), ...real(table.real, place, bottom),
  ...rows.flatMap((/** @type {any} */ row, /** @type {number} */ index) =>
    line(row, seeds[index], TOP + ROW * index + ROW / 2, place)));
  return { element, title, description };
}

/**
 * @param {any} row
 * @param {Map<string, any>} jobs
 * @param {string} metric
 * @returns {number[]}
 */
function seedsOf(row, jobs, metric) {
  return row.jobs.map((/** @type {string} */ id) => jobs.get(id)?.scores?.final?.scores?.[metric])
    .filter((/** @type {any} */ value) => typeof value === "number");
}

/**
 * @param {number} low
 * @param {number} high
 * @param {(value: number) => number} place
 * @param {number} bottom
 * @param {string} metric
 */
function axis(low, high, place, bottom, metric) {
  const muted = { fill: INK.muted, class: "picture-muted", "font-size": 12, "text-anchor": "middle" };
  return [
    ...ticks(low, high).flatMap((value) => [
      svg("line", { x1: place(value), x2: place(value), y1: TOP, y2: bottom + 4, stroke: INK.line, class: "picture-line" }),
      label(place(value), bottom + 18, number(value), muted)]),
    label((LABEL + WIDTH - RIGHT) / 2, bottom + 34, metric, muted),
  ];
}

/**
 * @param {any} value
 * @param {(value: number) => number} place
 * @param {number} bottom
 */
function real(value, place, bottom) {
  if (typeof value !== "number") return [];
  const x = place(value);
  const anchor = x > WIDTH - 90 ? "end" : x < LABEL + 90 ? "start" : "middle";
  return [
    svg("line", { x1: x, x2: x, y1: TOP, y2: bottom, stroke: INK.good, "stroke-dasharray": "4 4", class: "forest-real" }),
    label(x, TOP - 8, `real images ${number(value)}`, { "text-anchor": anchor, "font-size": 12 }),
  ];
}

/**
 * @param {any} row
 * @param {number[]} seeds
 * @param {number} y
 * @param {(value: number) => number} place
 */
function line(row, seeds, y, place) {
  const name = row.variant.length > MOST_LETTERS ? `${row.variant.slice(0, MOST_LETTERS - 1)}…` : row.variant;
  const parts = [label(LABEL - 14, y + 4, name, { "text-anchor": "end" })];
  if (typeof row.ci_low === "number") {
    parts.push(svg("line", { x1: place(row.ci_low), x2: place(row.ci_high), y1: y, y2: y, stroke: INK.accent,
      "stroke-width": 2, class: "forest-interval" }));
  }
  for (const seed of seeds) {
    parts.push(svg("circle", { cx: place(seed), cy: y, r: 4, fill: "none", stroke: INK.muted, class: "forest-seed" }));
  }
  parts.push(svg("rect", { x: place(row.mean) - 4, y: y - 4, width: 8, height: 8, fill: INK.accent, class: "forest-mean" }));
  return parts;
}
