// Whether the two networks are in balance, at a glance: the newest values with what would be amiss, in words.

import { get } from "../api.js";
import { fill, h } from "../dom.js";
import { number } from "../format.js";

const REFRESH_MS = 2000;

/** @typedef {Record<string, {step: number, value: number | string}>} Values */

/**
 * What is shown: a title, the metrics whose first existing one it shows, and what is amiss about its value.
 * @type {{title: string, names: RegExp, amiss?: (value: number, all: Values) => string | null}[]}
 */
const SIGNS = [
  { title: "Discriminator loss", names: /^d_loss$/ },
  { title: "Generator loss", names: /^g_loss$/ },
  { title: "Logits of real − generated", names: /^d_real$/, amiss: separation },
  { title: "Penalty's share of the gradient", names: /^gradient_ratio\/[^/]+$/ },
  { title: "Penalty, weighted", names: /^penalty_weighted\// },
  { title: "Energy of the first layer", names: /^energy\// },
  { title: "Smallest angle of the first layer", names: /^angle\// },
  { title: "Largest singular value", names: /^sigma_max/ },
];

/**
 * @param {string} jobId
 * @returns {{element: Element, refresh: () => void}}
 */
export function health(jobId) {
  const list = h("dl", { class: "facts" });
  let due = false;

  async function draw() {
    due = false;
    const { data } = await get(`/v1/jobs/${jobId}/metrics`);
    /** @type {Values} */
    const values = Object.fromEntries(data.map((/** @type {any} */ each) => [each.name, each]));
    const cells = SIGNS.map((sign) => cell(sign, values)).filter((each) => each !== null);
    fill(list, cells.length ? cells : h("div", {}, h("dd", { class: "muted" }, "Nothing was reported yet.")));
  }

  function refresh() {
    if (due) return;
    due = true;
    setTimeout(() => draw().catch(() => {}), REFRESH_MS);
  }

  draw().catch(() => {});
  return { element: list, refresh };
}

/**
 * @param {typeof SIGNS[number]} sign
 * @param {Values} values
 */
function cell(sign, values) {
  const name = Object.keys(values).find((each) => sign.names.test(each));
  if (name === undefined) return null;
  const { value } = values[name];
  const shown = name === "d_real" ? difference(values) : value;
  const wrong = typeof shown === "string" ? `✗ ${shown}` : sign.amiss?.(shown, values);
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
 * Far ahead, the discriminator leaves the generator nearly no gradient under the standard loss; at zero it knows nothing.
 * @param {number} value
 */
function separation(value) {
  if (value > 10) return "✗ D is far ahead";
  if (value < -0.1) return "✗ D rates generated images higher";
  return Math.abs(value) < 0.01 ? "✗ D tells nothing apart" : null;
}
