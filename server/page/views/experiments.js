// The experiments, newest first, a page at a time.

import { get } from "../api.js";
import { h, refill } from "../dom.js";
import { ago } from "../format.js";
import { states, swept } from "../parts/experiment_facts.js";
import { poll } from "../parts/poll.js";
import { link } from "../route.js";

const PAGE_ROWS = 50;

/**
 * @param {URLSearchParams} query
 * @returns {Promise<import("../main.js").View>}
 */
export async function experiments(query) {
  const cursor = query.get("cursor");
  const body = h("tbody");
  const pages = h("p", { class: "row" });

  /** @returns {Promise<boolean>} whether runs go on, or may begin */
  async function refresh() {
    const sent = new URLSearchParams({ limit: String(PAGE_ROWS), ...(cursor ? { cursor } : {}) });
    const page = await get(`/v1/experiments?${sent}`);
    refill(body, page.data.map(row), page.data.length === 0 && h("tr", {}, h("td", { colspan: 3 }, nothing())));
    refill(pages, cursor && h("a", { href: link(["experiments"]) }, "Newest"),
      page.has_more && h("a", { href: link(["experiments"], { cursor: page.next_cursor }) }, "Older"));
    return !cursor || page.data.some((/** @type {any} */ each) => !each.terminal);
  }

  await refresh();
  const element = h("div", {}, h("h1", {}, "Experiments"),
    h("p", { class: "muted" }, "Each is one configuration, trained once for every combination of the values that it varies."),
    h("div", { class: "table" }, h("table", { class: "experiments" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Experiment"),
        h("th", { scope: "col" }, "Runs"), h("th", { scope: "col", class: "wide" }, "Created"))), body)), pages);
  return { title: "Experiments", element, destroy: poll(refresh) };
}

/** @param {any} experiment */
function row(experiment) {
  const { id, name, matrix, counts, total, created_at: created } = experiment;
  return h("tr", {},
    h("td", { class: "name" }, h("a", { href: link(["experiments", id]) }, name ?? id), h("br"), h("span", { class: "muted" }, swept(matrix))),
    h("td", {}, states(counts, total)), h("td", { class: "wide created" }, ago(created)));
}

function nothing() {
  return ["No experiment yet. ", h("a", { href: "#/new" }, "Make one"), ": choose several variants or seeds."];
}
