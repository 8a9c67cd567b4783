// What the form holds, as an address that can be shared and as the request that it makes.

import { counted } from "../../format.js";
import { link } from "../../route.js";
import { complete, composed, flat } from "./schema.js";
import { labelsOf, Mistyped, numberOf, seedsOf, typed, valuesOf } from "./values.js";

/**
 * @typedef {{key: string, text: string}} Setting
 * @typedef {{preset: string, name: string, variants: string[], seeds: string, settings: Setting[], labels: string,
 *   priority: string, limit: string}} Entries what was entered, as text
 * @typedef {{schema: any, keys: Map<string, import("./schema.js").Key>, presets: any[], variants: any[],
 *   data: any}} Catalogue
 * @typedef {{path: string, body: any, jobs: number, factors: string[]}} Asked
 * @typedef {import("../../api.js").FieldProblem} FieldProblem
 */

/** Trains anywhere, without a download. */
const USUAL_PRESET = "digits_cnn";

/**
 * The entries that an address holds; the usual preset and seed 0 where it holds none.
 * @param {URLSearchParams} query
 * @param {Catalogue} catalogue
 * @returns {Entries}
 */
export function fromAddress(query, catalogue) {
  const names = catalogue.presets.map(({ name }) => name);
  const settings = query.getAll("set").map((each) => {
    const at = each.indexOf("=");
    return /** @type {[string, string]} */ (at < 0 ? [each, ""] : [each.slice(0, at), each.slice(at + 1)]);
  });
  return {
    preset: query.get("preset") ?? names.find((name) => name === USUAL_PRESET) ?? names[0],
    name: query.get("name") ?? "", variants: [...new Set(query.getAll("variant"))], seeds: query.get("seed") ?? "0",
    settings: [...new Map(settings)].map(([key, text]) => ({ key, text })),
    labels: query.getAll("label").join("\n"), priority: query.get("priority") ?? "", limit: query.get("limit") ?? "",
  };
}

/**
 * @param {Entries} entries
 * @returns {string}
 */
export function toAddress(entries) {
  const lines = entries.labels.split("\n").filter((line) => line.trim());
  const pairs = [["preset", entries.preset], ["name", entries.name],
    ...entries.variants.map((name) => ["variant", name]),
    ...entries.settings.map(({ key, text }) => ["set", `${key}=${text}`]), ...lines.map((line) => ["label", line]),
    ["priority", entries.priority], ["limit", entries.limit]];
  // No seed at all is an entry too: without it the address means seed 0.
  return link(["new"], new URLSearchParams([...pairs.filter(([, value]) => value), ["seed", entries.seeds]]));
}

/**
 * The entries that make a run with the configuration of a job: the nearest preset, and what differs from it.
 * @param {any} job
 * @param {Catalogue} catalogue
 * @returns {Entries}
 */
export function fromJob(job, catalogue) {
  const { config } = job;
  const variant = catalogue.variants.find(({ name }) => name === config.variant) ?? null;
  const wanted = flat(config);
  const offers = catalogue.presets.map(({ name, document }) => {
    const base = flat(complete(catalogue.schema, composed(document, variant, config.seed)));
    const settings = Object.entries(wanted).filter(([key, value]) => JSON.stringify(base[key]) !== JSON.stringify(value))
      .map(([key, value]) => ({ key, text: typed(value) }));
    return { name, settings };
  });
  offers.sort((a, b) => a.settings.length - b.settings.length);
  return { ...fromAddress(new URLSearchParams(), catalogue), preset: offers[0].name, name: job.name ?? "",
    variants: variant ? [variant.name] : [], seeds: String(config.seed), settings: offers[0].settings };
}

/**
 * The request that the entries make, or what is wrong with them.
 * @param {Entries} entries
 * @param {Catalogue} catalogue
 * @returns {{asked: Asked | null, problems: FieldProblem[]}}
 */
export function request(entries, catalogue) {
  /** @type {FieldProblem[]} */
  const problems = [];
  /** @type {<T>(pointer: string, read: () => T, instead: T) => T} */
  const attempt = (pointer, read, instead) => {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof Mistyped)) throw error;
      problems.push({ pointer, message: error.message });
      return instead;
    }
  };
  const seeds = attempt("/seed", () => seedsOf(entries.seeds), []);
  const settings = entries.settings.map(({ key, text }) => /** @type {[string, any[]]} */ ([key,
    attempt(pointer("overrides", key), () => valuesOf(catalogue.keys.get(key), text), [])]));
  const labels = attempt("/labels", () => labelsOf(entries.labels), {});
  const more = { priority: attempt("/priority", () => numberOf(entries.priority), undefined),
    wall_seconds_limit: attempt("/wall_seconds_limit", () => numberOf(entries.limit), undefined) };
  if (problems.length) return { asked: null, problems };
  const body = { preset: entries.preset, name: entries.name || undefined,
    labels: Object.keys(labels).length ? labels : undefined, ...more };
  return { asked: asked(body, entries.variants, seeds, settings), problems };
}

/**
 * @param {any} body
 * @param {string[]} variants
 * @param {number[]} seeds
 * @param {[string, any[]][]} settings
 * @returns {Asked}
 */
function asked(body, variants, seeds, settings) {
  const fixed = settings.filter(([, values]) => values.length === 1).map(([key, [value]]) => [key, value]);
  const varied = settings.filter(([, values]) => values.length > 1);
  const overrides = fixed.length ? Object.fromEntries(fixed) : undefined;
  if (variants.length < 2 && seeds.length < 2 && varied.length === 0) {
    return { path: "/v1/jobs", jobs: 1, factors: [],
      body: clean({ ...body, variant: variants[0], seed: seeds[0], overrides }) };
  }
  /** @type {[string, any[]][]} */
  const matrix = [["variant", variants], ["seed", seeds], ...varied];
  const used = matrix.filter(([, values]) => values.length);
  return { path: "/v1/experiments", jobs: used.reduce((product, [, values]) => product * values.length, 1),
    factors: used.map(([key, values]) => counted(key, values.length)),
    body: clean({ ...body, matrix: Object.fromEntries(used), overrides }) };
}

/** Without what is undefined. @param {any} body */
function clean(body) {
  return Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined));
}

/** The JSON pointer to a key. @param {...string} parts */
export function pointer(...parts) {
  return parts.map((part) => `/${part.replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}

/**
 * The field of the form that a pointer means: "preset", "variants", "seeds", "set KEY" and the like; null for none.
 * @param {string} where
 * @param {Entries} entries
 * @returns {string | null}
 */
export function fieldAt(where, entries) {
  const [first, second] = where.split("/").slice(1).map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  if (first === "matrix" || first === "overrides") {
    if (entries.settings.some(({ key }) => key === second)) return `set ${second}`;
    return second === "variant" ? "variants" : second === "seed" ? "seeds" : null;
  }
  const fields = /** @type {Record<string, string>} */ ({ preset: "preset", name: "name", variant: "variants", seed: "seeds",
    labels: "labels", priority: "priority", wall_seconds_limit: "limit" });
  return fields[first] ?? null;
}
