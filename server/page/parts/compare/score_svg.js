// The chart of scores against steps as a picture that can be saved; the page itself draws it on a canvas.

import { number } from "../../format.js";
import { DASHES, GLYPHS } from "../plot.js";
import { INK, label, range, svg, ticks } from "../svg.js";

/** @typedef {import("../columns.js").Series} Series */
/** @typedef {import("../columns.js").Point} Point */

/** The light colors of the curves, as curves.css has them. */
const COLORS = ["#1f63b4", "#c2410c", "#15803d", "#7e22ce", "#0e7490", "#a16207", "#be185d", "#475569"];
const [WIDTH, LEFT, RIGHT, TOP, HEIGHT, LEGEND] = [760, 76, 20, 34, 300, 20];

/**
 * @param {Series[]} all at most as many as the colors
 * @param {{metric: string, protocol: string, real: number | null, note: string}} facts
 * @returns {import("../export.js").Picture}
 */
export function scorePicture(all, { metric, protocol, real, note }) {
  const points = all.flatMap((series) => series.points);
  const values = [...points.flatMap(({ min, max }) => [min, max]), real].filter((value) => typeof value === "number");
  const [low, high] = range(values.length ? values : [0, 1]);
  const last = Math.max(1, ...points.map(({ step }) => step));
  const x = (/** @type {number} */ step) => LEFT + (step / last) * (WIDTH - LEFT - RIGHT);
  const y = (/** @type {number} */ value) => TOP + ((high - value) / (high - low)) * HEIGHT;
  const height = TOP + HEIGHT + 50 + LEGEND * (all.length + (real === null ? 0 : 1)) + 32;
  const title = `${metric} against training steps, protocol ${protocol}`;
  const element = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}` }, label(LEFT, 20, title, { "font-weight": 600 }),
    ...axes(low, high, last, x, y), ...level(real, y), ...all.flatMap((series, index) => curve(series, index, x, y)),
    ...legend(all, real), label(LEFT, height - 10, note, { fill: INK.muted, "font-size": 12 }));
  return { element, title, description: `${note} ${all.map(spoken).join("; ")}.${real === null ? "" : ` Real images: ${number(real)}.`}` };
}

/** @param {Series} series */
function spoken({ name, points }) {
  const newest = points.at(-1);
  return newest ? `${name}: ${number(newest.last ?? newest.word)} at step ${newest.step}` : `${name}: no score`;
}

/**
 * @param {number} low
 * @param {number} high
 * @param {number} last
 * @param {(step: number) => number} x
 * @param {(value: number) => number} y
 */
function axes(low, high, last, x, y) {
  const text = { fill: INK.muted, "font-size": 12 };
  const bottom = TOP + HEIGHT;
  return [
    ...ticks(low, high).flatMap((value) => [
      svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), stroke: INK.line }),
      label(LEFT - 8, y(value) + 4, number(value), { ...text, "text-anchor": "end" })]),
    ...ticks(0, last).flatMap((step) => [
      svg("line", { x1: x(step), x2: x(step), y1: bottom, y2: bottom + 5, stroke: INK.muted }),
      label(x(step), bottom + 20, step.toLocaleString("en"), { ...text, "text-anchor": "middle" })]),
    label((LEFT + WIDTH - RIGHT) / 2, bottom + 38, "training step", { ...text, "text-anchor": "middle" }),
  ];
}

/**
 * @param {number | null} real
 * @param {(value: number) => number} y
 */
function level(real, y) {
  if (real === null) return [];
  return [svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(real), y2: y(real), stroke: INK.muted, "stroke-width": 1.5,
    "stroke-dasharray": "6 4" })];
}

/**
 * Band, line and points of one variant, broken where no seed has a finite score, and the marks of those steps.
 * @param {Series} series
 * @param {number} index
 * @param {(step: number) => number} x
 * @param {(value: number) => number} y
 */
function curve({ points }, index, x, y) {
  const color = COLORS[index];
  const at = (/** @type {number} */ step, /** @type {number | null} */ value) =>
    `${x(step).toFixed(1)},${y(/** @type {number} */ (value)).toFixed(1)}`;
  const drawn = pieces(points).flatMap((piece) => {
    const edge = [...piece.map(({ step, max }) => at(step, max)), ...piece.toReversed().map(({ step, min }) => at(step, min))];
    return [
      svg("polygon", { points: edge.join(" "), fill: color, "fill-opacity": 0.18 }),
      svg("polyline", { points: piece.map(({ step, last }) => at(step, last)).join(" "), fill: "none", stroke: color,
        "stroke-width": 2, "stroke-dasharray": DASHES[index].join(" ") }),
      ...piece.map(({ step, last }) => svg("circle", { cx: x(step), cy: y(/** @type {number} */ (last)), r: 2.5, fill: color }))];
  });
  const marks = points.filter(({ word }) => word).map(({ step, word }) =>
    label(x(step), TOP + HEIGHT - 3 - 12 * index, GLYPHS[word ?? ""] ?? "◆", { fill: color, "text-anchor": "middle" }));
  return [...drawn, ...marks];
}

/**
 * The runs of points that have a mean.
 * @param {Point[]} points
 * @returns {Point[][]}
 */
function pieces(points) {
  /** @type {Point[][]} */
  const found = [[]];
  for (const point of points) {
    if (point.last === null) found.push([]);
    else found[found.length - 1].push(point);
  }
  return found.filter((piece) => piece.length > 0);
}

/**
 * @param {Series[]} all
 * @param {number | null} real
 */
function legend(all, real) {
  const lines = all.map(({ name }, index) => ({ name, stroke: COLORS[index], dash: DASHES[index].join(" ") }));
  if (real !== null) lines.push({ name: `real images ${number(real)}`, stroke: INK.muted, dash: "6 4" });
  return lines.flatMap(({ name, stroke, dash }, index) => {
    const y = TOP + HEIGHT + 60 + LEGEND * index;
    return [svg("line", { x1: LEFT, x2: LEFT + 30, y1: y, y2: y, stroke, "stroke-width": 2.5, "stroke-dasharray": dash }),
      label(LEFT + 38, y + 4, name)];
  });
}
