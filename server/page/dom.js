// Builds DOM nodes. Text is always text: nothing here parses HTML, so that no name or message can become markup.

/** @typedef {any} Child A node, text, a number, a list of these; null, undefined and false are nothing. */

/**
 * An element. Attributes that begin with "on" are listeners; `class`, `aria-*` and the like are set as they are; true
 * sets an empty attribute, false, null and undefined leave it out.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...Child} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  append(element, children);
  return element;
}

/**
 * @param {Element} element
 * @param {Child[]} children
 */
function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child !== null && child !== undefined && child !== false) element.append(/** @type {Node} */ (child));
  }
}

/**
 * Replace what an element contains. If the focus was in it, it goes to the new control that stands for the old one, so
 * that what is drawn anew by itself does not send a keyboard back to the top of the page; if there is none, the element
 * itself gets it, where it can.
 * @param {any} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  const focused = document.activeElement;
  const held = focused !== element && element.contains(focused) ? focused : null;
  element.replaceChildren();
  append(element, children);
  if (held === null) return;
  const same = [...element.querySelectorAll(held.tagName)].filter((each) => !each.disabled && identity(each) === identity(held));
  (same.length === 1 ? same[0] : element).focus({ preventScroll: true });
}

/** What tells a control from the others of its kind, whichever time it was drawn. @param {Element} control */
function identity(control) {
  const name = ["id", "value", "href", "aria-label"].find((each) => control.hasAttribute(each));
  return name ? `${name}=${control.getAttribute(name)}` : control.textContent;
}
