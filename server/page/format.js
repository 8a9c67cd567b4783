// Numbers, times and names as people read them.

const DAY = 86_400; // seconds

/**
 * A number with four significant digits; "–" for none; names of non-finite numbers stay as they are.
 * @param {number | string | null | undefined} value
 * @returns {string}
 */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3)) return value.toExponential(2);
  return Number(value.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 6 });
}

/**
 * @param {number | null | undefined} seconds
 * @returns {string}
 */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (Math.round(seconds) < 60) return `${Math.round(seconds)} s`;
  if (Math.round(seconds / 60) < 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 2 * DAY) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / DAY)} days`;
}

/**
 * How long ago an RFC 3339 time was.
 * @param {string | null} time
 * @returns {string}
 */
export function ago(time) {
  return time === null ? "–" : `${duration(Math.max(0, (Date.now() - Date.parse(time)) / 1000))} ago`;
}

/**
 * @param {number} bytes
 * @returns {string}
 */
export function size(bytes) {
  if (bytes < 2 ** 20) return `${Math.ceil(bytes / 1024)} KiB`;
  return bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(1)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

/**
 * A whole number, such as a step, with a comma between thousands.
 * @param {number} value
 * @returns {string}
 */
export function count(value) {
  return value.toLocaleString("en");
}

/**
 * The name of a metric or a reason as words.
 * @param {string} name
 * @returns {string}
 */
export function words(name) {
  return name.replaceAll("_", " ");
}

/**
 * A value of a configuration: text without quotes.
 * @param {any} value
 * @returns {string}
 */
export function valueText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/**
 * How many values of a key are compared, such as "2 variants" or "3 values of training.steps".
 * @param {string} key
 * @param {number} values
 * @returns {string}
 */
export function counted(key, values) {
  const plural = values === 1 ? "" : "s";
  return key === "variant" || key === "seed" ? `${values} ${key}${plural}` : `${values} value${plural} of ${key}`;
}

/**
 * What a run is beside its seed: its variant and the other values of its experiment's matrix.
 * @param {any} job
 * @returns {string}
 */
export function variantOf(job) {
  const variant = job.variant_label ?? job.variant ?? "–";
  const others = Object.entries(job.cell ?? {})
    .filter(([key]) => !["variant", "seed", "loss", "constraints"].includes(key.split(".")[0]));
  return others.length === 0 ? variant
    : `${variant} [${others.map(([key, value]) => `${key}=${valueText(value)}`).join(", ")}]`;
}

/**
 * What tells a run from the others of its experiment, which have its name.
 * @param {any} job
 * @returns {string}
 */
export function recipe(job) {
  return `${variantOf(job)}, seed ${job.seed ?? "–"}`;
}
