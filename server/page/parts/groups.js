// Which metrics share a chart, and which charts a heading.

import { MOST_CURVES } from "./plot.js";

/** @typedef {{title: string, names: string[]}} Planned */

/** @typedef {{title: string, has: (name: string, score: boolean) => boolean, chart: (name: string) => string}} Group */

const FAMILIES = /** @type {Record<string, string>} */ ({
  penalty: "Penalty, before its strength", strength: "Strength of the penalty", gradient_ratio: "Gradient ratio",
});
const SCORES = /^(inception_score|fid|kid|precision|recall)/;

/** @param {string} name */
const family = (name) => name.split("/")[0];

/** The headings in their order. The last one takes what no other has. */
export const GROUPS = /** @type {Group[]} */ ([
  { title: "Losses", has: (name) => name === "d_loss" || name === "g_loss", chart: () => "Loss" },
  { title: "Discriminator", has: (name) => name === "d_real" || name === "d_fake", chart: () => "Mean output" },
  {
    title: "Penalty and strength", has: (name) => name.includes("/") && family(name) in FAMILIES,
    chart: (name) => FAMILIES[family(name)],
  },
  { title: "Scores", has: (name, score) => score || SCORES.test(name), chart: (name) => name },
  { title: "Others", has: () => true, chart: family },
]);

/**
 * The charts of each group, in the order of GROUPS. A chart has at most MOST_CURVES curves: more cannot be told apart.
 * @param {string[]} names
 * @param {Set<string>} scores names of metrics that rank generators
 * @returns {Planned[][]}
 */
export function plan(names, scores) {
  /** @type {Map<string, string[]>[]} */
  const found = GROUPS.map(() => new Map());
  for (const name of [...names].sort()) {
    const at = GROUPS.findIndex((group) => group.has(name, scores.has(name)));
    const title = GROUPS[at].chart(name);
    found[at].set(title, [...(found[at].get(title) ?? []), name]);
  }
  return found.map((charts) => [...charts].flatMap(([title, members]) => chunks(title, members)));
}

/**
 * @param {string} title
 * @param {string[]} names
 * @returns {Planned[]}
 */
function chunks(title, names) {
  const count = Math.ceil(names.length / MOST_CURVES);
  return Array.from({ length: count }, (_, index) => ({
    title: count > 1 ? `${title} (${index + 1} of ${count})` : title,
    names: names.slice(index * MOST_CURVES, (index + 1) * MOST_CURVES),
  }));
}
