// Keys of the configuration that are set, or varied over several values.

import { fill, h } from "../../dom.js";
import { field, ticks } from "./field.js";
import { valueAt } from "./schema.js";

/**
 * @typedef {import("./request.js").Setting} Setting
 * @typedef {import("./request.js").Catalogue} Catalogue
 */

/**
 * @param {Catalogue} catalogue
 * @param {() => {preset: string, settings: Setting[]}} entries
 * @param {(settings: Setting[]) => void} onChange
 * @returns {{element: Element, fields: () => Map<string, import("./field.js").Field>, redraw: () => void}}
 */
export function keyRows(catalogue, entries, onChange) {
  /** @type {Map<string, import("./field.js").Field>} */
  const fields = new Map();
  const rows = h("div", { class: "new-keys" });
  const wanted = h("input", { list: "new-known", autocomplete: "off", size: 34, placeholder: "training.steps",
    onkeydown: (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // Enter adds the key; it does not submit
      add();
    } });
  const known = h("datalist", { id: "new-known" }, [...catalogue.keys.values()].map(({ key, description }) =>
    h("option", { value: key }, description)));
  const adder = field({ id: "new-key", label: "Add a key", control: wanted,
    hint: "Any key of the configuration. Several values, separated by commas, are compared.",
    extra: [known, h("button", { type: "button", onclick: add }, "Add")] });

  function add() {
    const key = wanted.value.trim();
    const has = entries().settings.some((each) => each.key === key);
    if (!has && !catalogue.keys.has(key)) {
      adder.say([key ? `There is no key “${key}”; choose one of the list.` : "Expected a key; choose one of the list."]);
      return;
    }
    adder.say([]);
    wanted.value = "";
    if (!has) {
      onChange([...entries().settings, { key, text: "" }]);
      redraw();
    }
    fields.get(key)?.focus();
  }

  function redraw() {
    fields.clear();
    fill(rows, entries().settings.map((setting) => {
      const made = row(catalogue, setting, entries().preset, (text) => {
        onChange(entries().settings.map((each) => (each.key === setting.key ? { ...each, text } : each)));
      }, () => {
        onChange(entries().settings.filter((each) => each.key !== setting.key));
        redraw();
        wanted.focus();
      });
      fields.set(setting.key, made);
      return made.element;
    }));
  }

  redraw();
  return { element: h("div", {}, rows, adder.element), fields: () => fields, redraw };
}

/**
 * @param {Catalogue} catalogue
 * @param {Setting} setting
 * @param {string} preset
 * @param {(text: string) => void} onText
 * @param {() => void} onRemove
 */
function row(catalogue, setting, preset, onText, onRemove) {
  const key = catalogue.keys.get(setting.key);
  const remove = h("button", { type: "button", onclick: onRemove, "aria-label": `Remove ${setting.key}` }, "Remove");
  const label = h("code", {}, setting.key);
  const hint = key ? [marked(key.description), h("br"), facts(key, catalogue, preset)]
    : "This service's configuration has no such key.";
  const id = `new-set-${setting.key.replaceAll(/[^\w.-]/g, "_")}`;
  if (key?.choices.length && !key.nullable) {
    const ticked = setting.text.split(",").map((each) => each.trim());
    const boxes = ticks(key.choices, ticked, (chosen) => onText(chosen.join(",")));
    return field({ id, label, hint, group: true,
      control: h("div", { class: "new-control" }, boxes.element, remove) });
  }
  const control = h("input", { value: setting.text, autocomplete: "off", spellcheck: "false", size: 24,
    oninput: () => onText(control.value) });
  return field({ id, label, hint, control, extra: remove });
}

/** Text whose parts between backticks are code. @param {string} text */
function marked(text) {
  return text.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

/**
 * The type, the bounds, and what the preset says.
 * @param {import("./schema.js").Key} key
 * @param {Catalogue} catalogue
 * @param {string} preset
 */
function facts(key, catalogue, preset) {
  const own = valueAt(catalogue.presets.find(({ name }) => name === preset)?.document, key.key);
  const fixed = own === undefined ? `default: ${shown(key.byDefault)}` : `${preset}: ${shown(own)}`;
  return [key.type, key.bounds, fixed, offers(key.key, catalogue.data)].filter(Boolean).join(" · ");
}

/** @param {any} value */
function shown(value) {
  if (value === null || value === undefined) return "unset";
  if (typeof value === "string") return value;
  return Number.isInteger(value) ? value.toLocaleString("en") : JSON.stringify(value);
}

/**
 * What of a key this service has.
 * @param {string} key
 * @param {any} data
 */
function offers(key, data) {
  const list = (/** @type {any[]} */ names) => `this service has ${names.join(", ") || "none"}`;
  if (key === "data.name") return list(data.data.map((/** @type {any} */ each) => each.name));
  if (key === "data.root") return list([...new Set(data.data.flatMap((/** @type {any} */ each) => each.roots))]);
  return key === "evaluation.weights" ? list(data.weights) : "";
}
