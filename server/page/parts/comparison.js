// Some runs compared: their films, and for each protocol their curves, plot and table. Shared by the view of a comparison
// and that of an experiment.

import { get, Problem } from "../api.js";
import { fill, h } from "../dom.js";
import { note } from "../route.js";
import { pictureFiles, tableFiles } from "./export.js";
import { films } from "./films.js";
import { forest } from "./forest.js";
import { grouped, metricsOf, variantsOf } from "./protocols.js";
import { ScoreCurves } from "./score_curves.js";
import { runList, scoreTable, sentences } from "./score_table.js";

/** @typedef {import("./protocols.js").Group} Group */

const APART = "Scores of different protocols, scorers or reference images are different measures. "
  + "They are never put in one table, so each has a comparison of its own.";
const VIEWS = [["steps", "equal steps"], ["wall_time", "equal training time"]];

/** What the user chose. @typedef {{metric: string, view: string, reference: string}} Choice */

/** The comparison of one group of runs. */
class Section {
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
      const mine = ++this.turn;
      const { table, content } = await this.compared(group, choice);
      if (mine === this.turn) { // else the user has chosen something else meanwhile
        this.table = table;
        fill(this.result, ...content);
      }
    }
    const variants = variantsOf(group.jobs, this.table);
    this.curves.update(variants);
    return [...variants.keys()];
  }

  /**
   * The answer of the service, and what is shown of it; null if it compares nothing, which is said instead.
   * @param {Group} group
   * @param {Choice} choice
   * @returns {Promise<{table: any, content: import("../dom.js").Child[]}>}
   */
  async compared(group, choice) {
    if (!group.jobs.some(({ scores }) => scores?.final)) {
      const said = h("p", { class: "muted" }, "No run has a final score yet, so there is no table.");
      return { table: null, content: [said, runList(group.jobs)] };
    }
    const sent = new URLSearchParams([...group.jobs.map(({ id }) => ["job", id]), ["metric", choice.metric], ["view", choice.view]]);
    try {
      let table = await get(`/v1/compare?${sent}`);
      // A reference that a group does not have is no mistake: another group has it.
      if (table.rows.some((/** @type {any} */ row) => row.variant === choice.reference)) {
        sent.set("reference", choice.reference);
        table = await get(`/v1/compare?${sent}`);
      }
      return { table, content: shown(table, new Map(group.jobs.map((job) => [job.id, job])), sent) };
    } catch (error) {
      if (!(error instanceof Problem)) this.done = ""; // so that it is asked again
      const said = h("p", { class: "note error", role: "alert" }, /** @type {Error} */ (error).message);
      return { table: null, content: [said, runList(group.jobs)] };
    }
  }

  destroy() {
    this.curves.destroy();
  }
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

/**
 * @param {any[]} jobs at least one
 * @param {URLSearchParams} query
 * @returns {{element: Element, update: (jobs: any[]) => Promise<void>, destroy: () => void}}
 */
export function comparison(jobs, query) {
  const film = films(jobs, query);
  /** @type {Map<string, Section>} */
  let sections = new Map();
  let known = jobs;
  const metric = h("select", { onchange: () => redraw() });
  const view = h("select", { onchange: () => redraw() },
    VIEWS.map(([value, text]) => h("option", { value, selected: value === query.get("view") }, text)));
  const reference = h("select", { onchange: () => redraw() });
  const metricLabel = h("label", {}, "Metric ", metric);
  const referenceLabel = h("label", {}, "Differences from ", reference);
  const apart = h("p", { class: "note", hidden: true }, APART);
  const place = h("div");
  const rest = h("div");
  offer(reference, [["", "no variant"]], query.get("reference") ?? "");

  async function redraw() {
    note({ metric: metric.value === metricsOf(known)[0] ? null : metric.value, reference: reference.value,
      view: view.value === "steps" ? null : view.value });
    await draw();
  }

  let turn = 0;
  async function draw() {
    const mine = ++turn;
    const metrics = metricsOf(known);
    offer(metric, metrics.map((name) => [name, name.replaceAll("_", " ")]), metric.value || (query.get("metric") ?? ""));
    metricLabel.hidden = metrics.length < 2;
    const chosen = metric.value || "score";
    const { groups, apart: others } = grouped(known, chosen);
    const kept = arrange(groups, chosen);
    const wanted = reference.value || (query.get("reference") ?? "");
    const choice = { metric: chosen, view: view.value, reference: reference.options.length > 1 ? reference.value : wanted };
    const drawn = await Promise.all(groups.map((group, index) => kept[index].draw(group, choice)));
    if (mine !== turn) return;
    const variants = [...new Set(drawn.flat())];
    offer(reference, [["", "no variant"], ...variants.map((name) => [name, name])], choice.reference);
    referenceLabel.hidden = variants.length < 2;
    fill(rest, others.length > 0 && h("section", { "aria-label": "Runs apart" }, h("h3", {}, "In no comparison"),
      runList(others.map(({ job }) => job), (job) => others.find((each) => each.job === job)?.why ?? "")));
  }

  /**
   * The sections of the groups, those that exist already as they are.
   * @param {Group[]} groups
   * @param {string} name of the metric
   */
  function arrange(groups, name) {
    const before = sections;
    sections = new Map(groups.map((group) => {
      const key = `${name} ${group.key}`;
      return [key, before.get(key) ?? new Section(group, name)];
    }));
    for (const [key, section] of before) if (!sections.has(key)) section.destroy();
    const kept = [...sections.values()];
    apart.hidden = groups.length < 2;
    kept.forEach((section, index) => {
      section.title.hidden = groups.length < 2;
      section.title.textContent = `Protocol ${groups[index].protocol}, ${groups[index].fingerprint
        ? `fingerprint ${groups[index].fingerprint.slice(0, 12)}` : "not scored yet"}`;
    });
    if (kept.some((section, index) => place.children[index] !== section.element) || place.children.length !== kept.length) {
      fill(place, kept.map(({ element }) => element));
    }
    return kept;
  }

  draw();
  const element = h("div", {},
    h("section", { "aria-label": "Samples" }, h("h2", {}, "Samples by training step"), film.element),
    h("section", { "aria-label": "Scores" }, h("h2", {}, "Scores"),
      h("div", { class: "row" }, metricLabel, h("label", {}, "Compare after ", view), referenceLabel), apart, place, rest));
  return {
    element,
    async update(/** @type {any[]} */ jobs) {
      known = jobs;
      film.update(jobs);
      await draw();
    },
    destroy() {
      film.destroy();
      for (const section of sections.values()) section.destroy();
    },
  };
}

/**
 * Give a select these options, and keep or make its choice.
 * @param {HTMLSelectElement} select
 * @param {string[][]} options values and texts
 * @param {string} chosen
 */
function offer(select, options, chosen) {
  const same = [...select.options].map(({ value }) => value).join("\n") === options.map(([value]) => value).join("\n");
  if (!same) fill(select, options.map(([value, text]) => h("option", { value }, text)));
  select.value = options.some(([value]) => value === chosen) ? chosen : options[0]?.[0] ?? "";
}
