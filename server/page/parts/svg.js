// Pictures that can be saved: SVG elements whose attributes hold the light colors. On the page the style sheet overrides
// them by classes, so that the same picture follows the theme there and opens in any viewer elsewhere.

const SPACE = "http://www.w3.org/2000/svg";

/** The light theme, for the attributes. */
export const INK = { text: "#1b1f24", muted: "#59636e", line: "#d1d7de", accent: "#2f5bd0", good: "#1a7f37" };

/**
 * An SVG element; children are elements, or texts.
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 * @param {...(Element | string)} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes, ...children) {
  const element = /** @type {SVGElement} */ (document.createElementNS(SPACE, tag));
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/**
 * A line of text.
 * @param {number} x
 * @param {number} y
 * @param {string} text
 * @param {Record<string, string | number>} [more]
 */
export function label(x, y, text, more = {}) {
  return svg("text", { x, y, fill: INK.text, "font-size": 13, class: "picture-text", ...more }, text);
}

/**
 * Round numbers from `low` to `high`, about as many as wanted.
 * @param {number} low
 * @param {number} high above low
 * @param {number} [wanted]
 * @returns {number[]}
 */
export function ticks(low, high, wanted = 5) {
  const least = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= least) ?? least;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, index) => (first + index) * step);
}

/**
 * The range of some numbers, a little wider than they are.
 * @param {number[]} values not empty
 * @returns {[number, number]}
 */
export function range(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - margin, high + margin];
}
