// What is asked before an action on runs that cannot be taken back.

/** @type {Record<string, string>} */
const WARNINGS = {
  cancel: "What was trained is kept, but it cannot go on. Pause it to go on later.",
  delete: "The files stay in the trash for some days.",
};

/**
 * Whether the user still wants it; actions that can be taken back are not asked about.
 * @param {string} action
 * @param {number} count of the runs
 * @returns {boolean}
 */
export function agreed(action, count) {
  const asked = `${action[0].toUpperCase()}${action.slice(1)} ${count === 1 ? "this run" : `${count} runs`}?`;
  return !(action in WARNINGS) || confirm(`${asked} ${WARNINGS[action]}`);
}
