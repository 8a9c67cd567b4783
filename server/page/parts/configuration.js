// The configuration of a run: what was chosen for it first, all of it below.

import { h } from "../dom.js";
import { valueText } from "../format.js";
import { flat } from "./new/schema.js";

const FIRST = ["variant", "training.steps", "training.batch_size", "data.name", "generator.architecture",
  "discriminator.architecture", "loss", "constraints.normalization", "optimizer.discriminator_lr", "optimizer.generator_lr",
  "evaluation.protocol", "training.precision"];

/**
 * @param {any} job
 * @returns {Element}
 */
export function configuration(job) {
  const all = Object.entries(flat(job.config));
  const values = Object.fromEntries(all);
  const cell = Object.entries(job.cell ?? {});
  return h("div", {},
    cell.length > 0 && h("p", {}, "In its experiment it differs by ",
      cell.map(([key, value], index) => [index > 0 && ", ", h("code", {}, `${key} = ${valueText(value)}`)]), "."),
    table(FIRST.filter((key) => key in values).map((key) => [key, values[key]])),
    h("details", {}, h("summary", {}, `All ${all.length} keys`), table(all)));
}

/** @param {[string, any][]} rows */
function table(rows) {
  return h("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Configuration" }, h("table", {}, h("tbody", {}, rows.map(([key, value]) =>
    h("tr", {}, h("th", { scope: "row" }, h("code", {}, key)), h("td", {}, valueText(value)))))));
}
