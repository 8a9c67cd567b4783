// Some runs compared: their films, and for each protocol their curves, plot and table. Shared by the view of a comparison
// and that of an experiment.

import { fill, h } from "../../dom.js";
import { words } from "../../format.js";
import { note } from "../../route.js";
import { films } from "./films.js";
import { grouped, metricsOf } from "./protocols.js";
import { runList } from "./score_table.js";
import { Section } from "./section.js";

/** @typedef {import("./protocols.js").Group} Group */

const APART = "Scores of different protocols, scorers or reference images are different measures. "
  + "They are never put in one table, so each has a comparison of its own.";
const VIEWS = [["steps", "equal steps"], ["wall_time", "equal training time"]];

/** All of some runs: their films, what the user chose, and a section for each group. */
class Comparison {
  /**
   * @param {any[]} jobs
   * @param {URLSearchParams} query
   */
  constructor(jobs, query) {
    this.jobs = jobs;
    this.query = query;
    this.turn = 0;
    this.films = films(jobs, query);
    /** @type {Map<string, Section>} */
    this.sections = new Map();
    const select = () => h("select", { onchange: () => this.chosen() });
    this.metric = select();
    this.view = select();
    this.reference = select();
    this.metricLabel = h("label", {}, "Metric ", this.metric);
    this.referenceLabel = h("label", {}, "Differences from ", this.reference);
    this.apart = h("p", { class: "note", hidden: true }, APART);
    this.place = h("div");
    this.rest = h("div");
    offer(this.view, VIEWS, query.get("view") ?? "");
    this.element = h("div", {},
      h("section", { "aria-label": "Samples" }, h("h2", {}, "Samples by training step"), this.films.element),
      h("section", { "aria-label": "Scores" }, h("h2", {}, "Scores"),
        h("div", { class: "row" }, this.metricLabel, h("label", {}, "Compare after ", this.view), this.referenceLabel),
        this.apart, this.place, this.rest));
  }

  /** Keep what the user has chosen in the address, and show it. */
  async chosen() {
    note({ metric: this.metric.value === metricsOf(this.jobs)[0] ? null : this.metric.value, reference: this.reference.value,
      view: this.view.value === VIEWS[0][0] ? null : this.view.value });
    await this.draw();
  }

  async draw() {
    const mine = ++this.turn;
    const metrics = metricsOf(this.jobs);
    offer(this.metric, metrics.map((name) => [name, words(name)]), this.metric.value || (this.query.get("metric") ?? ""));
    this.metricLabel.hidden = metrics.length < 2;
    const metric = this.metric.value || "score";
    const { groups, apart } = grouped(this.jobs, metric);
    const sections = this.arrange(groups, metric);
    // Before the first drawing there is nothing to choose from, and the address tells.
    const reference = this.reference.options.length ? this.reference.value : this.query.get("reference") ?? "";
    const choice = { metric, view: this.view.value, reference };
    const drawn = await Promise.all(groups.map((group, index) => sections[index].draw(group, choice)));
    if (mine !== this.turn) return; // the user has chosen something else meanwhile
    const variants = [...new Set(drawn.flat())];
    offer(this.reference, [["", "no variant"], ...variants.map((name) => [name, name])], reference);
    this.referenceLabel.hidden = variants.length < 2;
    fill(this.rest, apart.length > 0 && h("section", { "aria-label": "Runs apart" }, h("h3", {}, "In no comparison"),
      runList(apart.map(({ job }) => job), (job) => apart.find((each) => each.job === job)?.why ?? "")));
  }

  /**
   * The sections of the groups, those that exist already as they are.
   * @param {Group[]} groups
   * @param {string} metric
   */
  arrange(groups, metric) {
    const before = this.sections;
    this.sections = new Map(groups.map((group) => {
      const key = `${metric} ${group.key}`;
      return [key, before.get(key) ?? new Section(group, metric)];
    }));
    for (const [key, section] of before) if (!this.sections.has(key)) section.destroy();
    const sections = [...this.sections.values()];
    const several = groups.length > 1;
    this.apart.hidden = !several;
    sections.forEach(({ title }, index) => {
      const { protocol, fingerprint } = groups[index];
      title.hidden = !several;
      title.textContent = `Protocol ${protocol}, ${fingerprint ? `fingerprint ${fingerprint.slice(0, 12)}` : "not scored yet"}`;
    });
    const { children } = this.place;
    const same = children.length === sections.length && sections.every(({ element }, index) => children[index] === element);
    if (!same) fill(this.place, sections.map(({ element }) => element));
    return sections;
  }

  /** @param {any[]} jobs the same runs as they are now */
  async update(jobs) {
    this.jobs = jobs;
    this.films.update(jobs);
    await this.draw();
  }

  destroy() {
    this.films.destroy();
    for (const section of this.sections.values()) section.destroy();
  }
}

/**
 * @param {any[]} jobs at least one
 * @param {URLSearchParams} query
 * @returns {{element: Element, update: (jobs: any[]) => Promise<void>, destroy: () => void}}
 */
export function comparison(jobs, query) {
  const made = new Comparison(jobs, query);
  made.draw();
  return made;
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
