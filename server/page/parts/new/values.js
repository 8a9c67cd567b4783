// What is typed into a field, as values: seeds, labels, and the values of a key.

/** @typedef {import("./schema.js").Key} Key */

const MOST_SEEDS = 10_000;
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const SIMPLE = /^[^\s",[\]{}][^",[\]{}]*$/;

/** What is typed is wrong, before the service sees it. */
export class Mistyped extends Error {}

/**
 * Seeds such as "0, 1, 2" or "0-4". Raises Mistyped.
 * @param {string} text
 * @returns {number[]}
 */
export function seedsOf(text) {
  return text.split(/[,\s]+/).filter(Boolean).flatMap((part) => {
    const found = /^(\d+)(?:-(\d+))?$/.exec(part);
    if (!found) throw new Mistyped(`Expected seeds such as 0, 1, 2 or a range such as 0-4; got “${part}”.`);
    const [first, last] = [Number(found[1]), Number(found[2] ?? found[1])];
    if (![first, last].every(Number.isSafeInteger)) throw new Mistyped(`Expected seeds below 2^53; got ${part}.`);
    if (last < first) throw new Mistyped(`Expected the smaller seed of a range first; got ${part}.`);
    if (last - first >= MOST_SEEDS) {
      throw new Mistyped(`Expected a range of at most ${MOST_SEEDS.toLocaleString("en")} seeds; got ${part}.`);
    }
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });
}

/**
 * Labels, one "key:value" in a line. Raises Mistyped.
 * @param {string} text
 * @returns {Record<string, string>}
 */
export function labelsOf(text) {
  return Object.fromEntries(text.split("\n").filter((line) => line.trim()).map((line) => {
    const at = line.indexOf(":");
    if (at < 1) throw new Mistyped(`Expected one key:value in a line, such as paper:mhe; got “${line.trim()}”.`);
    return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  }));
}

/**
 * A number that may be left out. Raises Mistyped.
 * @param {string} text
 * @returns {number | undefined}
 */
export function numberOf(text) {
  if (!text.trim()) return undefined;
  if (!NUMBER.test(text.trim())) throw new Mistyped(`Expected a number; got “${text.trim()}”.`);
  return Number(text);
}

/**
 * The values of a key: one, or several between commas. Commas within quotation marks and brackets belong to a value.
 * Raises Mistyped.
 * @param {Key | undefined} key undefined for a key that the schema does not have
 * @param {string} text
 * @returns {any[]}
 */
export function valuesOf(key, text) {
  return pieces(text).map((piece) => {
    if (!piece) throw new Mistyped(text.trim() ? "Expected a value between all commas." : "Expected a value.");
    return valueOf(key, piece);
  });
}

/** @param {string} text */
function pieces(text) {
  const found = [""];
  let depth = 0;
  for (const [part] of text.matchAll(/"(?:[^"\\]|\\.)*"|[^]/g)) {
    if (/[[{]/.test(part) && part.length === 1) depth += 1;
    if (/[\]}]/.test(part) && part.length === 1) depth -= 1;
    if (part === "," && depth <= 0) found.push("");
    else found[found.length - 1] += part;
  }
  return found.map((piece) => piece.trim());
}

/**
 * @param {Key | undefined} key
 * @param {string} piece
 */
function valueOf(key, piece) {
  const choice = key?.choices.find((each) => String(each) === piece);
  if (choice !== undefined) return choice;
  if (piece === "null" && key?.nullable) return null;
  if (key?.kind !== "text" && NUMBER.test(piece)) return exact(piece);
  if (key?.kind === "text" && !piece.startsWith('"')) return piece;
  try {
    return JSON.parse(piece);
  } catch {
    return piece; // the service says what it expects
  }
}

/** @param {string} piece */
function exact(piece) {
  const value = Number(piece);
  if (!Number.isFinite(value)) throw new Mistyped(`Expected a finite number; got ${piece}.`);
  if (/^[+-]?\d+$/.test(piece) && !Number.isSafeInteger(value)) {
    throw new Mistyped(`Expected integers below 2^53; got ${piece}.`);
  }
  return value;
}

/**
 * A value as it is typed: the inverse of `valuesOf`.
 * @param {any} value
 * @returns {string}
 */
export function typed(value) {
  if (typeof value === "string" && SIMPLE.test(value) && value.trim() === value && value !== "null") return value;
  return JSON.stringify(value);
}
