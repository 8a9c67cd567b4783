// Whether the two networks are in balance, at a glance: the newest values with what would be amiss, in words.

import { get } from "../api.js";
import { fill, h } from "../dom.js";
import { number, words } from "../format.js";
import { inTurn } from "./in_turn.js";

const REFRESH_MS = 2000;

/** @typedef {Record<string, {step: number, value: number | string}>} Values */

/**
 * What is shown: a title, and the metrics whose first existing one it shows, or `each` of them.
 * @type {{title: string, names: RegExp, each?: boolean}[]}
 */
const SIGNS = [
  { title: "Discriminator loss", names: /^d_loss$/ },
  { title: "Generator loss", names: /^g_loss$/ },
  { title: "Logits of real − generated", names: /^d_real$/ },
  { title: "Gradient of the penalty / of the loss", names: /^gradient_ratio\/[^/]+$/, each: true },
  { title: "Penalty, weighted", names: /^penalty_weighted\//, each: true },
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
    const cells = SIGNS.flatMap((sign) => cellsOf(sign, values, loss));
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
function cellsOf({ title, names, each = false }, values, loss) {
  const found = Object.keys(values).filter((name) => names.test(name));
  if (found.length < 2 || !each) return found.slice(0, 1).map((name) => cell(title, name, values, loss));
  return found.map((name) => cell(`${title}: ${words(name.split("/")[1])}`, name, values, loss));
}

/**
 * @param {string} title
 * @param {string} name of the metric
 * @param {Values} values
 * @param {string} loss
 */
function cell(title, name, values, loss) {
  const { value } = values[name];
  const shown = name === "d_real" ? difference(values) : value;
  const judged = name === "d_real" && loss === "non_saturating"; // the logits of other losses have no scale
  if (typeof shown === "string") return h("div", {}, h("dt", {}, title), h("dd", { title: name, class: "bad" }, `✗ ${shown}`));
  const wrong = judged && shown !== null && separation(shown);
  return h("div", {}, h("dt", {}, title), h("dd", { title: name }, number(shown),
    wrong && h("span", { class: "bad" }, ` ${wrong}`)));
}

/**
 * The word of a value that is not finite, null while one is missing.
 * @param {Values} values
 */
function difference({ d_real: real, d_fake: fake }) {
  if (!real || !fake) return null;
  const word = [real.value, fake.value].find((value) => typeof value === "string");
  return word ?? Number(real.value) - Number(fake.value);
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
