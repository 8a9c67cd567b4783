// Whether this browser has signed in. The key itself is in a cookie that no script can read. A browser that keeps nothing
// for a site refuses the storage with an exception: it keeps no cookie either, so nobody is signed in there.

import { change } from "./api.js";

const SIGNED_IN = "gan-mhe: signed in";

/** @returns {boolean} */
export function signedIn() {
  try {
    return localStorage.getItem(SIGNED_IN) !== null;
  } catch {
    return false;
  }
}

/** @param {string} key */
export async function signIn(key) {
  await change("POST", "/session", { key });
  localStorage.setItem(SIGNED_IN, "yes");
}

export async function signOut() {
  await change("DELETE", "/session");
  localStorage.removeItem(SIGNED_IN);
}
