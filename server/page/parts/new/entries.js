// All fields of the form, in their order. They write what is entered into the entries.

import { h } from "../../dom.js";
import { field } from "./field.js";
import { keyRows } from "./keys.js";
import { variantList } from "./variants.js";

/**
 * @typedef {import("./request.js").Entries} Entries
 * @typedef {{field: string | null, message: string}} Said a message and the field that it is about
 */

/**
 * @param {import("./request.js").Catalogue} catalogue
 * @param {Entries} entries changed in place
 * @param {() => void} onChange
 * @returns {{element: Element, say: (said: Said[]) => string[]}} `say` returns the messages that no field has
 */
export function entryFields(catalogue, entries, onChange) {
  /** @param {Partial<Entries>} changes */
  const enter = (changes) => {
    Object.assign(entries, changes);
    onChange();
  };
  const keys = keyRows(catalogue, () => entries, (settings) => enter({ settings }));
  const preset = presetField(catalogue, entries, (name) => {
    enter({ preset: name });
    keys.redraw(); // they show what the preset says
  });
  const own = {
    preset, name: textField(entries, "name", "Name", "A name to find it by; may be left out.", enter),
    variants: variantList(catalogue.variants, entries.variants, (variants) => enter({ variants })),
    seeds: textField(entries, "seeds", "Seeds", "Such as 0, 1, 2 or 0-4. Several tell chance from effect.", enter),
    labels: labelField(entries, enter),
    priority: textField(entries, "priority", "Priority", "-10 to 10; each level counts as ten minutes of waiting.", enter),
    limit: textField(entries, "limit", "Limit of the running time", "In seconds; beyond it a run fails. Empty: no limit.", enter),
  };
  const advanced = h("details", { open: Boolean(entries.labels || entries.priority || entries.limit) },
    h("summary", {}, "Advanced: labels, priority, limit"), own.labels.element, own.priority.element, own.limit.element);

  /** @param {Said[]} said */
  function say(said) {
    const all = new Map(Object.entries(/** @type {Record<string, import("./field.js").Field>} */ (own)));
    for (const [key, each] of keys.fields()) all.set(`set ${key}`, each);
    for (const [name, each] of all) each.say(said.filter((one) => one.field === name).map((one) => one.message));
    if (said.some((one) => one.field && /^(labels|priority|limit)$/.test(one.field))) advanced.open = true;
    return said.filter((one) => !one.field || !all.has(one.field)).map((one) => one.message);
  }

  const element = h("div", {}, own.preset.element, own.name.element, own.variants.element, own.seeds.element,
    h("section", { "aria-label": "Keys" }, h("h2", {}, "Keys"), keys.element), advanced);
  return { element, say };
}

/**
 * @param {import("./request.js").Catalogue} catalogue
 * @param {Entries} entries
 * @param {(name: string) => void} onChange
 */
function presetField(catalogue, entries, onChange) {
  const described = h("p", { class: "new-hint" });
  const names = catalogue.presets.map(({ name }) => name);
  if (!names.includes(entries.preset)) names.push(entries.preset);
  const control = h("select", { onchange: () => {
    tell();
    onChange(control.value);
  } }, names.map((name) => h("option", { value: name, selected: name === entries.preset }, name)));

  function tell() {
    described.textContent = catalogue.presets.find(({ name }) => name === control.value)?.description ?? "";
  }

  tell();
  return field({ id: "new-preset", label: "Preset", control, extra: described });
}

/**
 * @param {Entries} entries
 * @param {"name" | "seeds" | "priority" | "limit"} entry
 * @param {string} label
 * @param {string} hint
 * @param {(changes: Partial<Entries>) => void} enter
 */
function textField(entries, entry, label, hint, enter) {
  const control = h("input", { value: entries[entry], autocomplete: "off", maxlength: 2000, size: entry === "name" ? 34 : 18,
    oninput: () => enter({ [entry]: control.value }) });
  return field({ id: `new-${entry}`, label, control, hint });
}

/**
 * @param {Entries} entries
 * @param {(changes: Partial<Entries>) => void} enter
 */
function labelField(entries, enter) {
  const control = h("textarea", { rows: 2, cols: 34, oninput: () => enter({ labels: control.value }) }, entries.labels);
  return field({ id: "new-labels", label: "Labels", control, hint: "One key:value in a line, such as paper:mhe." });
}
