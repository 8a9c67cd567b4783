// What the header says about the connection to the service.

const place = /** @type {HTMLElement} */ (document.getElementById("connection"));

/** Said while the service does not answer; whoever hears it again takes it back. */
export const RECONNECTING = "reconnecting …";

/**
 * Say in the header whether the service is heard. A screen reader reads it, so the same text is not set again.
 * @param {string} text
 */
export function connected(text) {
  if (place.textContent !== text) place.textContent = text;
}
