// The request of the form in the languages of other clients: curl, Python, the shell, and a TOML file. Each says exactly
// what the form sends; tests execute them.

import { composed, isTable, merge, nested } from "./schema.js";

/**
 * @typedef {import("./request.js").Asked} Asked
 * @typedef {import("./request.js").Catalogue} Catalogue
 */

/** A language has no word for the request. */
export class Inexpressible extends Error {}

/** One word of a shell, whatever it contains. @param {string} text */
function word(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * @param {Asked} asked
 * @param {string} service the address of the service
 */
export function curl(asked, service) {
  return [`curl -sS ${word(service + asked.path)}`, "-H 'Content-Type: application/json'",
    `-d ${word(JSON.stringify(asked.body))}`].join(" \\\n  ");
}

/**
 * @param {any} value
 * @returns {string}
 */
function python(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (isTable(value)) {
    return `{${Object.entries(value).map(([key, each]) => `${python(key)}: ${python(each)}`).join(", ")}}`;
  }
  return JSON.stringify(value); // the escapes of JSON are escapes of Python
}

/**
 * @param {Asked} asked
 * @param {string} service
 */
export function script(asked, service) {
  const [method, result] = asked.path === "/v1/jobs" ? ["submit", "job"] : ["submit_experiment", "experiment"];
  return ["from server.client import Client", "", `with Client(${python(service)}) as client:`,
    `    ${result} = client.${method}(`,
    ...Object.entries(asked.body).map(([name, value]) => `        ${name}=${python(value)},`),
    "    )", `    print(${result}.id)`].join("\n");
}

/**
 * A value in TOML. Raises Inexpressible for null, which TOML does not have.
 * @param {any} value
 * @returns {string}
 */
function tomlValue(value) {
  if (value === null) throw new Inexpressible("TOML has no null, which a key of this run is set to. Use curl or Python.");
  if (Array.isArray(value)) return `[${value.map(tomlValue).join(", ")}]`;
  if (isTable(value)) {
    return `{ ${Object.entries(value).map(([key, each]) => `${tomlKey(key)} = ${tomlValue(each)}`).join(", ")} }`;
  }
  return typeof value === "string" ? quoted(value) : String(value);
}

/** JSON's escapes are TOML's, but for DEL, which JSON leaves as it is. @param {string} text */
const quoted = (text) => JSON.stringify(text).replaceAll("\x7f", "\\u007f");

/** @param {string} key */
const tomlKey = (key) => (/^[\w-]+$/.test(key) ? key : quoted(key));

/**
 * The value after `--set KEY=`: words stay as they are where the command takes them for text.
 * @param {any} value
 */
function assigned(value) {
  const plain = typeof value === "string" && /^[A-Za-z][\w.:-]*$/.test(value) && !/^(true|false|inf|nan)$/.test(value);
  return plain ? value : tomlValue(value);
}

/**
 * @param {Asked} asked
 * @param {string} service
 */
export function shell(asked, service) {
  const { preset, variant, seed, overrides = {}, matrix = {} } = asked.body;
  const { name, labels = {}, priority, wall_seconds_limit: limit } = asked.body;
  const { variant: variants, seed: seeds, ...varied } = matrix;
  const options = [
    variant !== undefined && `--variant=${variant}`, seed !== undefined && `--seed=${seed}`,
    variants && `--variants=${variants.join(",")}`, seeds && `--seeds=${seeds.join(",")}`,
    ...Object.entries(overrides).map(([key, value]) => `--set=${key}=${assigned(value)}`),
    ...Object.entries(varied).map(([key, values]) => `--vary=${key}=${tomlValue(values)}`),
    name !== undefined && `--name=${name}`, ...Object.entries(labels).map(([key, value]) => `--label=${key}=${value}`),
    priority !== undefined && `--priority=${priority}`, limit !== undefined && `--wall-seconds-limit=${limit}`,
    `--server=${service}`,
  ].filter((option) => option !== false && option !== undefined);
  return [`gan-mhe submit ${word(preset)}`, ...options.map((option) => word(/** @type {string} */ (option)))].join(" \\\n  ");
}

/**
 * A file for `gan-mhe train`: of an experiment, its first job.
 * @param {Asked} asked
 * @param {Catalogue} catalogue
 */
export function file(asked, catalogue) {
  const { preset, overrides = {}, matrix = {} } = asked.body;
  const first = Object.fromEntries(Object.entries(matrix).map(([key, values]) => [key, values[0]]));
  const { variant = asked.body.variant, seed = asked.body.seed, ...settings } = first;
  const base = catalogue.presets.find(({ name }) => name === preset)?.document ?? {};
  const patch = catalogue.variants.find(({ name }) => name === variant) ?? null;
  const document = merge(composed(base, patch, seed), nested({ ...overrides, ...settings }));
  return [`# gan-mhe train FILE.toml`, ...remarks(asked, document), ...tables(document)].join("\n");
}

/**
 * What the file does not say.
 * @param {Asked} asked
 * @param {any} document
 */
function remarks(asked, document) {
  const names = [["data", "root"], ["evaluation", "weights"]].filter(([section, key]) => document[section]?.[key])
    .map((parts) => parts.join("."));
  const differ = asked.jobs > 1 && Object.keys(asked.body.matrix).join(", ");
  return [differ && `# The first of ${asked.jobs} runs; the others differ in ${differ}.`,
    names.length > 0 && `# ${names.join(" and ")}: a name of the service; write the path for a run of your own.`]
    .filter((line) => line !== false);
}

/**
 * The lines of a document: the values of a table before the tables within it.
 * @param {any} document
 * @param {string[]} [path]
 * @returns {string[]}
 */
function tables(document, path = []) {
  const entries = Object.entries(document);
  const inner = entries.filter(([, value]) => isTable(value));
  const values = entries.filter(([, value]) => !isTable(value)).map(([key, value]) => `${tomlKey(key)} = ${tomlValue(value)}`);
  const needed = path.length > 0 && (values.length > 0 || inner.length === 0);
  const heading = needed ? ["", `[${path.map(tomlKey).join(".")}]`] : [];
  return [...heading, ...values, ...inner.flatMap(([key, value]) => tables(value, [...path, key]))];
}
