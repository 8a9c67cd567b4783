// The picture of the film: grid A, and grid B over its right part while the two are compared; both in a dialog.

import { address } from "../api.js";
import { fill, h } from "../dom.js";
import { pixels } from "./pixels.js";

/** @typedef {import("./film_grids.js").Grid} Grid */
/** @typedef {1 | 2 | 3 | "fit"} Zoom */

/**
 * @param {number} step
 * @returns {string}
 */
export const stepText = (step) => `step ${step.toLocaleString("en")}`;

/** Decoded images by path: those shown and their neighbors. The rest is left to the browser's cache. */
class Images {
  /** @type {Map<string, Promise<HTMLImageElement>>} */
  #images = new Map();

  /**
   * @param {Grid} grid
   * @returns {Promise<HTMLImageElement>}
   */
  get(grid) {
    const known = this.#images.get(grid.image);
    if (known) return known;
    const image = new Image();
    image.src = address(grid.image);
    const decoded = image.decode().then(() => image);
    decoded.catch(() => this.#images.delete(grid.image)); // so that it is asked for again
    this.#images.set(grid.image, decoded);
    return decoded;
  }

  /**
   * Ask for these images and forget all others.
   * @param {Grid[]} grids
   */
  keep(grids) {
    const paths = new Set(grids.map((grid) => grid.image));
    for (const path of this.#images.keys()) if (!paths.has(path)) this.#images.delete(path);
    for (const grid of grids) this.get(grid);
  }
}

export class Picture {
  /** @type {Zoom} */
  #zoom = 1;
  /** @type {Grid | null} */
  #a = null;
  /** @type {Grid | null} */
  #b = null;
  #images = new Images();
  #imageA = pixels(h("img", { alt: "" }));
  #imageB = pixels(h("img", { alt: "", class: "film-b", hidden: true }));
  #line = h("span", { class: "film-line", hidden: true });
  #handle = h("input", {
    type: "range", class: "film-handle", min: 0, max: 100, value: 50, hidden: true,
    "aria-label": "Border between A and B", oninput: () => this.#wipe(),
  });
  #frame = h("div", { class: "film-frame" },
    h("button", {
      type: "button", class: "film-open", title: "Open in full size", "aria-haspopup": "dialog",
      onclick: () => this.#open(),
    }, this.#imageA, this.#imageB, this.#line),
    this.#handle);
  #caption = h("figcaption");
  #dialog = h("dialog", { class: "film-dialog", "aria-label": "Sample grids in full size" });
  element = h("figure", { class: "film-picture", hidden: true },
    h("div", { class: "film-stage" }, this.#frame), this.#caption, this.#dialog);

  /** @param {(grid: Grid) => string} describe the text in place of a grid's image */
  constructor(describe) {
    this.describe = describe;
    this.#wipe();
  }

  /** The grid that is seen; null before the first. */
  get shown() {
    return this.#a;
  }

  /**
   * Show grid A, and B over it unless that is null, once their images are decoded. Rejects if one cannot be loaded;
   * then what was shown stays.
   * @param {Grid} a
   * @param {Grid | null} b
   */
  async show(a, b) {
    await Promise.all([a, b].map((grid) => grid && this.#images.get(grid)));
    this.#a = a;
    this.#b = b;
    this.#place(this.#imageA, a);
    if (b) this.#place(this.#imageB, b);
    for (const part of [this.#imageB, this.#line, this.#handle]) part.hidden = !b;
    this.element.hidden = false;
    fill(this.#caption, this.#captionText(a, b));
    this.zoom = this.#zoom;
  }

  /**
   * Load these grids' images, because the reader may ask for them next.
   * @param {Grid[]} neighbors
   */
  prefetch(neighbors) {
    this.#images.keep([this.#a, this.#b, ...neighbors].filter((grid) => grid !== null));
  }

  /** @param {Zoom} zoom screen pixels of a pixel of the grid, or "fit" for the width of the page */
  set zoom(zoom) {
    this.#zoom = zoom;
    this.#frame.classList.toggle("fit", zoom === "fit");
    if (!this.#a) return;
    const scale = zoom === "fit" ? 1 : zoom;
    for (const image of [this.#imageA, this.#imageB]) { // both the size of A, so that the border is at one place
      image.width = this.#a.width * scale;
      image.height = this.#a.height * scale;
    }
  }

  close() {
    this.#dialog.close();
  }

  /**
   * @param {HTMLImageElement} image
   * @param {Grid} grid
   */
  #place(image, grid) {
    image.src = address(grid.image);
    image.alt = this.describe(grid);
  }

  /**
   * @param {Grid} a
   * @param {Grid | null} b
   * @returns {string}
   */
  #captionText(a, b) {
    const size = `${a.width} × ${a.height} pixels`;
    return b ? `Left A: ${stepText(a.step)}. Right B: ${stepText(b.step)}. ${size}.` : `${stepText(a.step)}, ${size}`;
  }

  #wipe() {
    const percent = this.#handle.value;
    this.#handle.setAttribute("aria-valuetext", `${percent} % A, ${100 - percent} % B`);
    this.#imageB.style.clipPath = `inset(0 0 0 ${percent}%)`;
    this.#line.style.left = `${percent}%`;
  }

  #open() {
    const grids = [this.#a, this.#b].filter((grid) => grid !== null);
    const figures = grids.map((grid) => h("figure", {},
      h("img", { src: address(grid.image), alt: this.describe(grid) }), h("figcaption", {}, stepText(grid.step))));
    const close = h("button", { type: "button", onclick: () => this.close() }, "Close");
    fill(this.#dialog, h("div", { class: "film-full" }, figures), close);
    this.#dialog.showModal();
  }
}
