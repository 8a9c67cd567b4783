// What every submission needs: a key that makes it count once, and words for its refusal.

import { Problem } from "../../api.js";

/** A new Idempotency-Key. @returns {string} */
export function onceKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  // Only pages of https and of this machine have randomUUID.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Why a submission was refused, in words. @param {Error} error */
export function refusal(error) {
  const forbidden = error instanceof Problem && error.code === "forbidden";
  return forbidden ? `Your API key may look at runs but not submit any: ${error.message}.` : error.message;
}
