// Numbers and times as people read them.

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
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
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
  return bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
