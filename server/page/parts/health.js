// Whether the two networks are in balance, at a glance: the newest values with what would be amiss, in words.

import { get } from "../api.js";
import { fill, h } from "../dom.js";
import { number } from "../format.js";
import { inTurn } from "./in_turn.js";

const REFRESH_MS = 2000;

/** @typedef {Record<string, {step: number, value: number | string}>} Values */

/**
 * What is shown: a title, and the metrics whose first existing one it shows.
 * @type {{title: string, names: RegExp}[]}
 */
const SIGNS = [
  { title: "Discriminator loss", names: /^d_loss$/ },
  { title: "Generator loss", names: /^g_loss$/ },
  { title: "Logits of real − generated", names: /^d_real$/ },
  { title: "Penalty's share of the gradient", names: /^gradient_ratio\/[^/]+$/ },
  { title: "Penalty, weighted", names: /^penalty_weighted\// },
  { title: "Energy of the first layer", names: /^energy\// },
  { title: "Smallest angle of the first layer", names: /^angle\// },
  { title: "Largest singular value", names: /^sigma\// },
];

/**
 * @param {string} jobId
 * @param {string} loss
 * @returns {{element: Element, refresh: () => void, destroy: () => void}}
 */
export function health(jobId, loss) {
  const list = h("dl", { class: "facts" });
  const drawing = inTurn(draw, REFRESH_MS);

  /** @param {AbortSignal} signal */
  async function draw(signal) {
    const { data } = await get(`/v1/jobs/${encodeURIComponent(jobId)}/metrics`, signal);
    /** @type {Values} */
    const values = Object.fromEntries(data.map((/** @type {any} */ each) => [each.name, each]));
    const cells = SIGNS.map((sign) => cell(sign, values, loss)).filter((each) => each !== null);
    fill(list, cells.length ? cells : h("div", {}, h("dd", { class: "muted" }, "Nothing was reported yet.")));
  }

  drawing.ask();
  return { element: list, refresh: drawing.ask, destroy: drawing.stop };
}

/**
 * @param {typeof SIGNS[number]} sign
 * @param {Values} values
 * @param {string} loss
 */
function cell(sign, values, loss) {
  const name = Object.keys(values).find((each) => sign.names.test(each));
  if (name === undefined) return null;
  const { value } = values[name];
  const shown = name === "d_real" ? difference(values) : value;
  const judged = name === "d_real" && loss === "non_saturating"; // the logits of other losses have no scale
  const wrong = typeof shown === "string" ? `✗ ${shown}` : judged && separation(shown);
  return h("div", {}, h("dt", {}, sign.title), h("dd", { title: name }, number(shown),
    wrong && h("span", { class: "bad" }, ` ${wrong}`)));
}

/** @param {Values} values */
function difference(values) {
  const real = values.d_real?.value;
  const fake = values.d_fake?.value;
  return typeof real === "number" && typeof fake === "number" ? real - fake : (real ?? "–");
}

/**
 * Far ahead, the discriminator leaves the generator nearly no gradient under this loss; at zero it knows nothing.
 * @param {number} value
 */
function separation(value) {
  if (value > 10) return "✗ D is far ahead";
  if (value < -0.1) return "✗ D rates generated images higher";
  return Math.abs(value) < 0.01 ? "✗ D tells nothing apart" : null;
}
