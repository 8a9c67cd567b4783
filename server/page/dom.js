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
 * Replace what an element contains.
 * @param {Element} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
}
