// How the pixels of a picture are drawn at the size at which it is shown.

const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) choose(/** @type {HTMLImageElement} */ (target));
});

/**
 * Show enlarged pixels as squares, and smooth a picture that is shown smaller than it is: else whole rows and columns of
 * it would be left out, which changes what small images look like.
 * @template {HTMLImageElement} T
 * @param {T} image
 * @returns {T} the same
 */
export function pixels(image) {
  image.addEventListener("load", () => choose(image));
  sizes.observe(image);
  return image;
}

/** @param {HTMLImageElement} image */
function choose(image) {
  image.style.imageRendering = image.naturalWidth > image.clientWidth * devicePixelRatio ? "auto" : "pixelated";
}
