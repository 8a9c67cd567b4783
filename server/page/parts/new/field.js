// One field of the form: its label, control and hint, and what is wrong with it.

import { fill, h } from "../../dom.js";

/**
 * @typedef {{element: Element, say: (messages: string[]) => void, focus: () => void}} Field
 */

/**
 * A field whose control is one element, or a group of checkboxes (`group`).
 * @param {{id: string, label: any, control: any, hint?: any, group?: boolean, extra?: any}} parts
 *   id: unique in the page. extra: what stands beside the control.
 * @returns {Field}
 */
export function field({ id, label, control, hint, group = false, extra }) {
  const trouble = h("ul", { class: "new-error", id: `${id}-error` });
  const explained = hint && h("p", { class: "new-hint", id: `${id}-hint` }, hint);
  const element = group
    ? h("fieldset", { class: "new-field", id }, h("legend", {}, label), explained, extra, control, trouble)
    : h("div", { class: "new-field" }, h("label", { for: id }, label), explained,
      h("div", { class: "new-control" }, control, extra), trouble);
  if (!group) control.id = id;
  const described = group ? element : control;
  described.setAttribute("aria-describedby", [explained && `${id}-hint`, `${id}-error`].filter(Boolean).join(" "));

  /** @param {string[]} messages */
  function say(messages) {
    fill(trouble, messages.map((message) => h("li", {}, `✗ ${message}`)));
    const inputs = group ? element.querySelectorAll("input[type=checkbox]") : [control];
    for (const input of inputs) {
      if (messages.length) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    }
  }

  return { element, say, focus: () => (group ? element.querySelector("input") : control)?.focus() };
}

/**
 * Boxes to tick, one for each choice.
 * @param {any[]} choices
 * @param {string[]} ticked
 * @param {(ticked: string[]) => void} onChange gets the ticked ones in the order of the choices
 * @param {(choice: any) => any} [content]
 * @returns {{element: Element, boxes: {box: any, item: any, choice: any}[]}}
 */
export function ticks(choices, ticked, onChange, content = String) {
  const boxes = choices.map((choice) => {
    const value = String(choice);
    const box = h("input", { type: "checkbox", value, checked: ticked.includes(value), onchange: changed });
    return { box, choice, item: h("li", {}, h("label", {}, box, h("span", {}, content(choice)))) };
  });

  function changed() {
    onChange(boxes.filter(({ box }) => box.checked).map(({ box }) => box.value));
  }

  return { element: h("ul", { class: "new-ticks" }, boxes.map(({ item }) => item)), boxes };
}
