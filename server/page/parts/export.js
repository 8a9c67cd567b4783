// Files of what is shown: tables as the service writes them, pictures as SVG and PNG.

import { address } from "../api.js";
import { h } from "../dom.js";
import { svg } from "./svg.js";

const SCALE = 2; // pixels of a PNG for each of the SVG

/** @typedef {{element: SVGElement, title: string, description: string}} Picture */

/**
 * Give the user a file.
 * @param {Blob} blob
 * @param {string} name
 */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url)); // after the browser has taken it
}

/**
 * A picture as a document of its own: on white, without the page's classes, with title and description.
 * @param {Picture} picture
 * @returns {string}
 */
export function standalone({ element, title, description }) {
  const copy = /** @type {SVGElement} */ (element.cloneNode(true));
  for (const each of [copy, ...copy.querySelectorAll("*")]) {
    for (const name of ["class", "role", "aria-label"]) each.removeAttribute(name);
  }
  const [, , width, height] = (copy.getAttribute("viewBox") ?? "0 0 1 1").split(" ");
  for (const [name, value] of Object.entries({ width, height, "font-family": "system-ui, sans-serif" })) {
    copy.setAttribute(name, value);
  }
  copy.prepend(svg("title", {}, title), svg("desc", {}, description), svg("rect", { width, height, fill: "#ffffff" }));
  return new XMLSerializer().serializeToString(copy);
}

/**
 * The same picture in pixels.
 * @param {Picture} picture
 * @returns {Promise<Blob>}
 */
async function pixels(picture) {
  const url = URL.createObjectURL(new Blob([standalone(picture)], { type: "image/svg+xml" }));
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = h("canvas", { width: SCALE * image.width, height: SCALE * image.height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve, reject) => {
      canvas.toBlob((/** @type {Blob | null} */ blob) => (blob ? resolve(blob) : reject(new Error("the picture is too large"))));
    });
  } finally {
    URL.revokeObjectURL(url);
  }
}

/**
 * The buttons that save a picture as it is when they are pressed.
 * @param {string} what such as "chart"
 * @param {string} name of the files, without ending
 * @param {() => Picture} picture
 * @returns {HTMLElement}
 */
export function pictureFiles(what, name, picture) {
  const failure = h("span", { class: "bad", role: "alert" });

  /** @type {(form: string, made: () => Promise<Blob> | Blob) => HTMLElement} */
  const button = (form, made) => h("button", { type: "button", "aria-label": `Save the ${what} as ${form.toUpperCase()}`,
    onclick: async () => {
      failure.textContent = "";
      try {
        save(await made(), `${name}.${form}`);
      } catch (error) {
        failure.textContent = `Not saved: ${/** @type {Error} */ (error).message}.`;
      }
    } }, form.toUpperCase());
  return h("p", { class: "row saves" }, `Save the ${what} as `,
    button("svg", () => new Blob([standalone(picture())], { type: "image/svg+xml" })), button("png", () => pixels(picture())), failure);
}

/**
 * The links to a comparison in the forms of the service.
 * @param {URLSearchParams} sent what /v1/compare is asked
 * @returns {Element}
 */
export function tableFiles(sent) {
  const forms = [["csv", "CSV", "csv"], ["markdown", "Markdown", "md"], ["latex", "LaTeX", "tex"]];
  return h("p", { class: "row saves" }, "Save the table as ", forms.map(([format, text, ending]) => h("a", {
    href: address(`/v1/compare?${new URLSearchParams([...sent, ["format", format]])}`), download: `comparison.${ending}`,
  }, text)));
}
