// A forest plot: for each variant its seeds, their mean and its interval, and the score of real images.

import { number } from "../format.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 640;
const ROW = 30;
const LABEL = 170;
const RIGHT = 20;

/**
 * @param {any} table the answer of /v1/compare
 * @param {Map<string, any>} jobs by id
 * @returns {Element}
 */
export function forest(table, jobs) {
  const rows = table.rows.filter((/** @type {any} */ row) => row.mean !== null);
  const seeds = rows.map((/** @type {any} */ row) => row.jobs.map((/** @type {string} */ id) => score(jobs.get(id), table.metric))
    .filter((/** @type {any} */ value) => typeof value === "number"));
  const values = [...seeds.flat(), ...rows.flatMap((/** @type {any} */ row) => [row.ci_low, row.ci_high, row.mean]), table.real]
    .filter((value) => typeof value === "number");
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const place = (/** @type {number} */ value) =>
    LABEL + ((value - low) / (high - low || 1)) * (WIDTH - LABEL - RIGHT);
  const height = ROW * (rows.length + 1);
  const plot = draw("svg", { viewBox: `0 0 ${WIDTH} ${height}`, class: "forest", role: "img",
    "aria-label": `Scores by variant; the table has the numbers. Real images ${number(table.real)}.` });
  if (typeof table.real === "number") {
    plot.append(draw("line", { x1: place(table.real), x2: place(table.real), y1: 4, y2: height - ROW, class: "forest-real" }));
    plot.append(label(place(table.real), height - 10, `real ${number(table.real)}`, "end"));
  }
  plot.append(label(LABEL, height - 10, number(low), "start"));
  for (const [index, row] of rows.entries()) plot.append(...line(row, seeds[index], ROW * index + ROW / 2, place));
  return plot;
}

/**
 * @param {any} row
 * @param {number[]} seeds
 * @param {number} y
 * @param {(value: number) => number} place
 */
function line(row, seeds, y, place) {
  const parts = [label(0, y + 4, row.variant.length > 24 ? `${row.variant.slice(0, 23)}…` : row.variant, "start")];
  if (row.ci_low !== null) {
    parts.push(draw("line", { x1: place(row.ci_low), x2: place(row.ci_high), y1: y, y2: y, class: "forest-interval" }));
  }
  for (const seed of seeds) parts.push(draw("circle", { cx: place(seed), cy: y, r: 3, class: "forest-seed" }));
  parts.push(draw("rect", { x: place(row.mean) - 4, y: y - 4, width: 8, height: 8, class: "forest-mean" }));
  return parts;
}

/**
 * @param {any} job
 * @param {string} metric
 */
function score(job, metric) {
  return job?.scores?.final?.scores?.[metric];
}

/**
 * @param {string} tag
 * @param {Record<string, any>} attributes
 */
function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}

/**
 * @param {number} x
 * @param {number} y
 * @param {string} text
 * @param {string} anchor
 */
function label(x, y, text, anchor) {
  const element = draw("text", { x, y, "text-anchor": anchor, class: "forest-label" });
  element.textContent = text;
  return element;
}
