// The comparison of runs that were scored in the same way: their curves, plot and table.

import { get, passes, Problem } from "../../api.js";
import { fill, h } from "../../dom.js";
import { redraw } from "../../route.js";
import { pictureFiles, tableFiles } from "../export.js";
import { forest } from "./forest.js";
import { variantsOf } from "./protocols.js";
import { ScoreCurves } from "./score_curves.js";
import { runList, scoreTable, sentences } from "./score_table.js";

/** @typedef {import("./protocols.js").Group} Group */
/** What the user chose. @typedef {{metric: string, view: string, reference: string}} Choice */

const RETRY_MS = 2000;

export class Section {
  /**
   * @param {Group} group
   * @param {string} metric
   */
  constructor(group, metric) {
    this.curves = new ScoreCurves(metric, group.protocol);
    this.result = h("div");
    this.title = h("h3", { hidden: true });
    this.element = h("section", { class: "comparison", "aria-label": `Protocol ${group.protocol}` }, this.title,
      this.curves.element, this.result);
    this.done = "";
    this.turn = 0;
    this.timer = 0;
    /** @type {any} the service's answer; null without one */
    this.table = null;
  }

  /**
   * Show the runs as they are now. Only what has changed is asked for.
   * @param {Group} group
   * @param {Choice} choice
   * @returns {Promise<string[]>} the variants
   */
  async draw(group, choice) {
    const done = JSON.stringify([choice, group.jobs.map((job) => [job.id, job.terminal, job.state])]);
    if (done !== this.done) {
      this.done = done;
      await this.ask(group, choice);
    }
    const variants = variantsOf(group.jobs, this.table);
    this.curves.update(variants);
    return [...variants.keys()];
  }

  /**
   * Ask the service and show its answer, or why there is none. An older question does not count any more.
   * @param {Group} group
   * @param {Choice} choice
   */
  async ask(group, choice) {
    const mine = ++this.turn;
    clearTimeout(this.timer);
    let [table, content] = [null, /** @type {import("../../dom.js").Child[]} */ ([])];
    try {
      ({ table, content } = await compared(group, choice));
    } catch (error) {
      if (mine === this.turn) this.failed(/** @type {Error} */ (error), group, choice);
      content = [h("p", { class: "note error", role: "alert" }, /** @type {Error} */ (error).message), runList(group.jobs)];
    }
    if (mine !== this.turn) return;
    this.table = table;
    fill(this.result, ...content);
  }

  /**
   * @param {Error} error
   * @param {Group} group
   * @param {Choice} choice
   */
  failed(error, group, choice) {
    if (error instanceof Problem && error.status === 401) redraw(); // it asks for the key
    if (!passes(error)) return;
    this.timer = setTimeout(async () => {
      await this.ask(group, choice);
      this.curves.update(variantsOf(group.jobs, this.table)); // under the names of the table
    }, RETRY_MS);
  }

  destroy() {
    this.turn += 1;
    clearTimeout(this.timer);
    this.curves.destroy();
  }
}

/**
 * The answer of the service, null if it has nothing to compare, and what is shown of it.
 * @param {Group} group
 * @param {Choice} choice
 * @returns {Promise<{table: any, content: import("../../dom.js").Child[]}>}
 */
async function compared(group, choice) {
  if (!group.jobs.some(({ scores }) => scores?.final)) {
    const said = h("p", { class: "muted" }, "No run has a final score yet, so there is no table.");
    return { table: null, content: [said, runList(group.jobs)] };
  }
  const sent = new URLSearchParams([...group.jobs.map(({ id }) => ["job", id]), ["metric", choice.metric], ["view", choice.view]]);
  let table = await get(`/v1/compare?${sent}`);
  // A reference that a group does not have is no mistake: another group has it.
  if (table.rows.some((/** @type {any} */ row) => row.variant === choice.reference)) {
    sent.set("reference", choice.reference);
    table = await get(`/v1/compare?${sent}`);
  }
  return { table, content: shown(table, new Map(group.jobs.map((job) => [job.id, job])), sent) };
}

/**
 * @param {any} table
 * @param {Map<string, any>} jobs by id
 * @param {URLSearchParams} sent
 */
function shown(table, jobs, sent) {
  const plot = forest(table, jobs);
  return [...sentences(table, jobs),
    h("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Plot of the scores" }, plot.element),
    pictureFiles("plot", `${table.metric}-by-variant`, () => plot), scoreTable(table), tableFiles(sent)];
}
