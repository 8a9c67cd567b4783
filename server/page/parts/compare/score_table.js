// The rows of a comparison, sorted by the heading that was pressed, and in sentences what they show and cannot show.

import { fill, h } from "../../dom.js";
import { count, duration, number, words } from "../../format.js";
import { current, link, note } from "../../route.js";
import { titles } from "./protocols.js";
import { stateMark } from "../state.js";

/** @typedef {{key: string, title: string, value: (row: any) => any, cell: (row: any) => import("../../dom.js").Child}} Column */

const ALPHA = 0.05;
/** The order of the rows, as `aria-sort` calls it. @type {Record<string, string>} */
const SORTS = { "": "none", up: "ascending", down: "descending" };

/**
 * @param {any} table the answer of /v1/compare
 * @returns {Element}
 */
export function scoreTable(table) {
  const columns = columnsOf(table);
  const asked = current().query.get("sort") ?? "";
  let [key, order] = [asked.replace(/^-/, ""), asked.startsWith("-") ? "down" : "up"];
  if (!columns.some((column) => column.key === key)) [key, order] = ["", ""];
  const body = h("tbody");
  const heads = columns.map((column, index) => h("th", { scope: "col", class: index ? "n" : "" },
    h("button", { type: "button", class: "sort", onclick: () => press(column.key) }, column.title, " ", h("span", { "aria-hidden": "true" }))));

  /** @param {string} pressed */
  function press(pressed) {
    const next = /** @type {Record<string, string>} */ ({ up: "down", down: "", "": "up" });
    [key, order] = [pressed, key === pressed ? next[order] : "up"];
    if (order === "") key = "";
    note({ sort: key && (order === "down" ? `-${key}` : key) });
    draw();
  }

  function draw() {
    columns.forEach((column, index) => {
      const own = column.key === key ? order : "";
      heads[index].setAttribute("aria-sort", SORTS[own]);
      heads[index].querySelector("span").textContent = own === "up" ? "▲" : own === "down" ? "▼" : "↕";
    });
    fill(body, sorted(table.rows, columns.find((column) => column.key === key), order).map((row) => h("tr", {},
      columns.map((column, index) => (index ? h("td", { class: "n" }, column.cell(row)) : h("th", { scope: "row" }, column.cell(row)))))));
  }

  draw();
  return h("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Scores by variant" },
    h("table", { class: "scores" }, h("thead", {}, h("tr", {}, heads)), body));
}

/**
 * Rows without a number come last in both orders.
 * @param {any[]} rows
 * @param {Column | undefined} column
 * @param {string} order
 */
function sorted(rows, column, order) {
  if (!column) return rows;
  const missing = (/** @type {any} */ value) => value === null || value === undefined || (typeof value === "string" && column.key !== "variant");
  return [...rows].sort((a, b) => {
    const [left, right] = [column.value(a), column.value(b)];
    if (missing(left) || missing(right)) return Number(missing(left)) - Number(missing(right));
    const rise = typeof left === "string" ? left.localeCompare(right) : left - right;
    return order === "down" ? -rise : rise;
  });
}

/**
 * @param {any} table
 * @returns {Column[]}
 */
function columnsOf(table) {
  /** @type {(key: string, title: string, cell?: (row: any) => any) => Column} */
  const column = (key, title, cell = (row) => number(row[key])) => ({ key, title, value: (row) => row[key], cell });
  const percent = Math.round(100 * table.confidence);
  const columns = [
    column("variant", "Variant", (row) => row.variant), column("n", "n", counted), column("mean", "Mean"), column("std", "Std"),
    column("ci_low", `${percent} % interval`, (row) => interval(row.ci_low, row.ci_high)), column("best_mean", "Best mean"),
  ];
  if (table.view === "wall_time") columns.splice(2, 0, column("step", "At step", (row) => row.step === null ? "–" : count(row.step)));
  if (table.reference) {
    columns.push(column("difference", "Difference", difference), column("p_holm", "p (Holm)"),
      column("minimum_detectable_effect", "Detectable"));
  }
  return columns;
}

/** @param {any} row */
function counted(row) {
  const others = row.failed - row.diverged;
  return [row.n, row.diverged > 0 && h("span", { class: "bad" }, ` ✗ ${row.diverged} diverged`),
    others > 0 && h("span", { class: "muted" }, ` +${others} without score`)];
}

/** @param {any} low @param {any} high */
function interval(low, high) {
  return low === null || low === undefined ? "–" : `${number(low)} to ${number(high)}`;
}

/** @param {any} row */
function difference(row) {
  if (row.pairs === null || row.pairs === undefined) return "reference";
  const value = typeof row.difference === "number" && row.difference > 0 ? `+${number(row.difference)}` : number(row.difference);
  return [value, h("br"), h("span", { class: "muted" },
    row.difference_low === null ? "" : `${interval(row.difference_low, row.difference_high)}, `, `${row.pairs} ${row.pairs === 1 ? "pair" : "pairs"}`)];
}

/**
 * What the table shows and what it cannot show.
 * @param {any} table
 * @param {Map<string, any>} jobs by id
 * @returns {import("../../dom.js").Child[]}
 */
export function sentences(table, jobs) {
  const percent = Math.round(100 * table.confidence);
  const single = table.rows.filter((/** @type {any} */ row) => row.n === 1);
  return [
    h("p", { class: "muted" }, `${words(table.metric)}, protocol ${table.protocol} (${table.fingerprint.slice(0, 12)}). `,
      `The unit is the training seed; the interval covers the mean with ${percent} %. `,
      table.real === null ? "The real images have no score." : `Real images: ${number(table.real)}.`),
    table.view === "wall_time" && h("p", { class: "note" }, `Equal training time: each variant is compared at the step that it `
      + `reaches in ${duration(table.budget_seconds)}, the training time of the fastest one. Scores between evaluations are `
      + "interpolated. Best checkpoints are chosen from whole runs and are left out."),
    single.length > 0 && h("p", { class: "note" }, "One seed says nothing about the spread between seeds"
      + (single.length < table.rows.length ? `: ${single.map((/** @type {any} */ row) => row.variant).join(", ")}.` : ".")),
    table.same_budget === false && h("p", { class: "note" }, "The runs differ in more than the variant: their budgets are not equal."),
    table.reference && h("p", { class: "note" }, verdict(table)),
    table.unfinished.length > 0 && unfinished(table.unfinished, jobs),
  ];
}

/** @param {any} table */
function verdict({ rows, reference }) {
  const tested = rows.filter((/** @type {any} */ row) => typeof row.p_holm === "number")
    .sort((/** @type {any} */ a, /** @type {any} */ b) => a.p_holm - b.p_holm);
  if (tested.length === 0) return `Nothing could be tested against ${reference}: that takes two seeds that both have.`;
  const found = tested.filter((/** @type {any} */ row) => row.p_holm < ALPHA);
  const told = (/** @type {any} */ row) => `${row.variant} (p ${number(row.p_holm)}, ${row.pairs} pairs)`;
  const meaning = "Detectable: the smallest true difference that such a test would find with a power of 80 %.";
  if (found.length) return `Significantly different from ${reference} at the 5 % level: ${found.map(told).join(", ")}. ${meaning}`;
  return `No significant difference to ${reference} at the 5 % level; the smallest p is that of ${told(tested[0])}. ${meaning}`;
}

/**
 * @param {{job_id: string}[]} listed
 * @param {Map<string, any>} jobs
 */
function unfinished(listed, jobs) {
  return h("div", {}, h("p", { class: "muted" }, "Without a final score, and in no mean:"), runList(listed.map(({ job_id }) =>
    jobs.get(job_id))));
}

/**
 * Runs as a list of links with their states.
 * @param {any[]} jobs
 * @param {(job: any) => string} [why]
 * @returns {Element}
 */
export function runList(jobs, why = () => "") {
  const title = titles(jobs);
  return h("ul", { class: "runs" }, jobs.map((job) => {
    const { own, name } = title(job);
    return h("li", {}, h("a", { href: link(["jobs", job.id]) }, own), name && ` ${name}`, " ", stateMark(job),
      why(job) && `: ${why(job)}`);
  }));
}
