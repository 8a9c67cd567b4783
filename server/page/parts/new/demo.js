// What a service without runs shows: what a run is, and one button that makes the first ones.

import { change } from "../../api.js";
import { h } from "../../dom.js";
import { link } from "../../route.js";
import { onceKey, refusal } from "./submission.js";

/** The experiment of `gan-mhe demo`; a test compares both. */
const DEMO = { preset: "digits_cnn", name: "demonstration",
  matrix: { variant: ["none", "spectral_norm", "mhe", "mhe_sn"], seed: [0] } };

/** @returns {Element} */
export function welcome() {
  const key = onceKey();
  const answer = h("p", { class: "bad", role: "alert" });
  const button = h("button", { type: "button", class: "primary", onclick: train }, "Train the demo");

  async function train() {
    button.disabled = true;
    answer.textContent = "";
    try {
      const { id } = await change("POST", "/v1/experiments", DEMO, { headers: { "Idempotency-Key": key } });
      location.hash = link(["experiments", id]);
    } catch (error) {
      answer.textContent = refusal(/** @type {Error} */ (error));
      button.disabled = false;
    }
  }

  return h("section", { class: "new-welcome", "aria-label": "The first run" }, h("h2", {}, "No run yet"),
    h("p", {}, "A run trains a GAN whose discriminator is regularized in one way, and keeps its images, scores and checkpoints. ",
      "The demo trains four such variants on handwritten digits and compares them."),
    h("p", { class: "row" }, button, h("a", { href: "#/new" }, "New run")),
    h("p", { class: "muted" }, "The demo costs four runs, about 7 minutes on two cores."), answer);
}
