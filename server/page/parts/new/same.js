// "The same as": the request of the form as text for another client, to be copied.

import { address } from "../../api.js";
import { h } from "../../dom.js";
import { curl, file, Inexpressible, script, shell } from "./languages.js";

/** @typedef {import("./request.js").Asked} Asked */

const NOTES = /** @type {Record<string, string>} */ ({
  curl: "If the service needs a key, add -H \"Authorization: Bearer $GAN_MHE_KEY\".",
  Python: "GAN_MHE_KEY is the key, if the service needs one.", Shell: "GAN_MHE_KEY is the key, if the service needs one.",
  TOML: "The configuration alone, for a run without the service.",
});

/**
 * @param {import("./request.js").Catalogue} catalogue
 * @returns {{element: Element, show: (asked: Asked | null) => void}}
 */
export function sameAs(catalogue) {
  const service = address("/").replace(/\/$/, "");
  /** @type {Record<string, (asked: Asked) => string>} */
  const languages = { curl: (asked) => curl(asked, service), Python: (asked) => script(asked, service),
    Shell: (asked) => shell(asked, service), TOML: (asked) => file(asked, catalogue) };
  let language = "curl";
  /** @type {Asked | null} */
  let now = null;
  const text = h("pre", { class: "new-same", tabindex: 0, role: "group" });
  const note = h("p", { class: "muted" });
  const said = h("span", { role: "status", class: "muted" });
  const copy = h("button", { type: "button", onclick: copyText }, "Copy");
  const choices = Object.keys(languages).map((name) => h("button", { type: "button", onclick: () => {
    language = name;
    draw();
  } }, name));

  function draw() {
    for (const choice of choices) choice.setAttribute("aria-pressed", String(choice.textContent === language));
    said.textContent = "";
    text.setAttribute("aria-label", `The same as ${language}`);
    note.textContent = NOTES[language];
    copy.disabled = true;
    try {
      text.textContent = now ? languages[language](now) : "Nothing to show while the form has a mistake.";
      copy.disabled = now === null;
    } catch (error) {
      if (!(error instanceof Inexpressible)) throw error;
      text.textContent = error.message;
    }
  }

  async function copyText() {
    try {
      await navigator.clipboard.writeText(text.textContent);
      said.textContent = "Copied.";
    } catch { // not a secure context, or not permitted
      getSelection()?.selectAllChildren(text);
      said.textContent = "Selected: copy it with Ctrl+C or ⌘C.";
    }
  }

  draw();
  const element = h("section", { "aria-label": "The same as" }, h("h2", {}, "The same as"),
    h("div", { class: "row" }, h("div", { class: "row", role: "group", "aria-label": "Language" }, choices), copy, said),
    text, note);
  return { element, show: (asked) => {
    now = asked;
    draw();
  } };
}
