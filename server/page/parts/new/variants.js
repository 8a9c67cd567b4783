// The variants to train: a list that can be narrowed, with what each is and where it comes from.

import { h } from "../../dom.js";
import { field, ticks } from "./field.js";

/**
 * @param {any[]} variants their entries in the catalogue
 * @param {string[]} selected
 * @param {(selected: string[]) => void} onChange
 * @returns {import("./field.js").Field}
 */
export function variantList(variants, selected, onChange) {
  const count = h("output", { class: "muted" });
  const none = h("p", { class: "muted", hidden: true }, "No variant has these words.");
  // What an address names and the service does not have stays visible, so that it can be unticked.
  const unknown = selected.filter((name) => variants.every((each) => each.name !== name))
    .map((name) => ({ name, description: "unknown to this service", source: "" }));
  const entries = new Map([...variants, ...unknown].map((each) => [each.name, each]));
  const list = ticks([...entries.keys()], selected, (names) => {
    tell(names);
    onChange(names);
  }, (name) => [h("code", {}, name), ` ${entries.get(name).description}`,
    h("span", { class: "muted" }, entries.get(name).source && ` · ${entries.get(name).source}`)]);
  const search = h("input", { type: "search", "aria-label": "Narrow the variants", placeholder: "narrow, such as mhe",
    size: 18, oninput: narrow, onkeydown: (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter") event.preventDefault();
    } });

  function narrow() {
    const words = search.value.toLowerCase().split(/\s+/);
    for (const { item } of list.boxes) {
      const text = item.textContent.toLowerCase();
      item.hidden = !words.every((/** @type {string} */ each) => text.includes(each));
    }
    none.hidden = list.boxes.some(({ item }) => !item.hidden);
  }

  /** @param {string[]} names */
  function tell(names) {
    count.textContent = `${names.length} selected${names.length ? `: ${names.join(", ")}` : ""}`;
  }

  tell(selected);
  return field({ id: "new-variants", label: "Variants", group: true,
    hint: "How the discriminator is regularized. Several are compared. With none selected, the preset decides.",
    extra: h("p", { class: "row" }, search, count),
    control: h("div", { class: "new-variants" }, list.element, none) });
}
