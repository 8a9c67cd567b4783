// The form for a service that requires a key. The key goes into a cookie that no script can read, never into an address.

import { h } from "../dom.js";
import { signedIn, signIn } from "../session.js";

/**
 * @param {string} why what the service says of the key of an earlier session
 * @param {() => void} onDone
 * @returns {Element}
 */
export function login(why, onDone) {
  const key = h("input", { type: "password", name: "key", id: "key", required: true, autocomplete: "current-password" });
  const button = h("button", { class: "primary" }, "Sign in");
  const answer = h("p", { class: "bad", role: "alert" });

  /** @param {SubmitEvent} event */
  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    answer.textContent = "";
    try {
      await signIn(key.value.trim());
      onDone();
    } catch (error) {
      answer.textContent = /** @type {Error} */ (error).message;
    }
    button.disabled = false;
  }

  return h("form", { onsubmit: submit },
    h("h1", {}, "Sign in"),
    h("p", {}, "This service requires an API key. The operator creates one with ", h("code", {}, "gan-mhe keys create"), "."),
    signedIn() && h("p", { class: "muted" }, why), // before that, the reason is only that there is no key yet
    h("p", { class: "row" }, h("label", { for: "key" }, "API key"), key, button),
    answer);
}
