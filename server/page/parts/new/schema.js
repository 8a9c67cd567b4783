// The keys of a configuration as its JSON Schema describes them, and the documents that they make.

/**
 * @typedef {"boolean" | "choice" | "integer" | "number" | "text" | "json"} Kind
 * @typedef {{key: string, kind: Kind, type: string, description: string, bounds: string, choices: any[],
 *   nullable: boolean, byDefault: any}} Key
 */

/** Bounds of numbers, in the order in which they are read. @type {[string, string][]} */
const BOUNDS = [["minimum", "≥"], ["exclusiveMinimum", ">"], ["maximum", "≤"], ["exclusiveMaximum", "<"]];
/** What the form asks for by fields of its own. */
const OWN = ["variant", "seed"];

/**
 * The section that a property is, if it is one.
 * @param {any} schema
 * @param {any} property
 */
function sectionOf(schema, property) {
  const place = property.$ref ?? property.anyOf?.find((/** @type {any} */ each) => each.$ref)?.$ref;
  return place && schema.$defs[place.replace("#/$defs/", "")];
}

/** @param {any} property */
const isNullable = (property) => (property.anyOf ?? []).some((/** @type {any} */ each) => each.type === "null");

/**
 * All keys that take a value, in the order of the schema: fields, and sections that may be absent.
 * @param {any} schema
 * @returns {Map<string, Key>}
 */
export function keysOf(schema) {
  /** @type {Map<string, Key>} */
  const found = new Map();

  /**
   * @param {any} section
   * @param {string} prefix
   */
  function visit(section, prefix) {
    for (const [name, property] of Object.entries(section.properties)) {
      const key = `${prefix}${name}`;
      const inner = sectionOf(schema, property);
      if (!OWN.includes(key) && (!inner || isNullable(property))) found.set(key, describe(key, property, inner));
      if (inner) visit(inner, `${key}.`);
    }
  }

  visit(schema, "");
  return found;
}

/**
 * @param {string} key
 * @param {any} property
 * @param {any} inner the section that it is, if it is one
 * @returns {Key}
 */
function describe(key, property, inner) {
  const plain = property.anyOf?.find((/** @type {any} */ each) => each.type !== "null") ?? property;
  const nullable = isNullable(property);
  const bounds = BOUNDS.filter(([name]) => plain[name] !== undefined).map(([name, sign]) => `${sign} ${plain[name]}`);
  const own = inner ? { kind: "json", type: "table, such as {}" } : typeOf(plain);
  return { key, kind: /** @type {Kind} */ (own.kind), type: nullable ? `${own.type}, or null` : own.type,
    description: property.description ?? inner?.description ?? "", bounds: bounds.join(", "), nullable,
    choices: plain.enum ?? ("const" in plain ? [plain.const] : plain.type === "boolean" ? [false, true] : []),
    byDefault: property.default };
}

/** @param {any} plain */
function typeOf(plain) {
  if (plain.enum || "const" in plain) return { kind: "choice", type: "choice" };
  switch (plain.type) {
    case "boolean": return { kind: "boolean", type: "yes or no" };
    case "integer": return { kind: "integer", type: "integer" };
    case "number": return { kind: "number", type: "number" };
    case "string": return { kind: "text", type: plain.format === "path" ? "name of a file or folder" : "text" };
    case "array": return { kind: "json", type: `list of ${plain.items?.type ?? "value"}s, such as [1, 2]` };
    default: return { kind: "json", type: "JSON" };
  }
}

/** @param {any} value */
export const isTable = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * `base` with the keys of `over`, table by table.
 * @param {any} base
 * @param {any} over
 * @returns {any}
 */
export function merge(base, over) {
  const merged = { ...base };
  for (const [key, value] of Object.entries(over)) {
    merged[key] = isTable(merged[key]) && isTable(value) ? merge(merged[key], value) : value;
  }
  return merged;
}

/**
 * Dotted keys as nested tables.
 * @param {Record<string, any>} flat
 */
export function nested(flat) {
  let tables = {};
  for (const [key, value] of Object.entries(flat)) {
    tables = merge(tables, key.split(".").reduceRight((/** @type {any} */ inner, part) => ({ [part]: inner }), value));
  }
  return tables;
}

/**
 * Nested tables as dotted keys; lists and empty tables are values.
 * @param {any} document
 * @param {string} [prefix]
 * @returns {Record<string, any>}
 */
export function flat(document, prefix = "") {
  return Object.assign({}, ...Object.entries(document).map(([key, value]) =>
    isTable(value) && Object.keys(value).length ? flat(value, `${prefix}${key}.`) : { [`${prefix}${key}`]: value }));
}

/**
 * A document with a variant and a seed, as the service composes them: a variant replaces the constraints.
 * @param {any} document
 * @param {any} variant its entry in the catalogue, or null
 * @param {number | undefined} seed
 */
export function composed(document, variant, seed) {
  return { ...document, ...(variant ? { constraints: {}, ...variant.patch, variant: variant.name } : {}),
    ...(seed === undefined ? {} : { seed }) };
}

/**
 * A document with every default written out, as a job has it.
 * @param {any} schema
 * @param {any} document
 * @param {any} [section]
 * @returns {any}
 */
export function complete(schema, document, section = schema) {
  return Object.fromEntries(Object.entries(section.properties).map(([name, property]) => {
    const inner = sectionOf(schema, property);
    const value = document?.[name] ?? property.default;
    if (!inner) return [name, value];
    return [name, isNullable(property) && !isTable(value) ? null : complete(schema, value, inner)];
  }));
}

/**
 * The value of a dotted key, undefined if the document has none.
 * @param {any} document
 * @param {string} key
 */
export function valueAt(document, key) {
  return key.split(".").reduce((/** @type {any} */ within, part) => within?.[part], document);
}
