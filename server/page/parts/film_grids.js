// The sample grids of a job by training step, without those whose images were deleted.

import { get } from "../api.js";

/** @typedef {{step: number, width: number, height: number, image: string}} Grid */

const PAGE_SIZE = 1000;

export class Grids {
  /** @type {Grid[]} by rising step; their indexes are the positions of the sliders */
  list = [];
  /** How many grids have no image any more. */
  pruned = 0;

  /**
   * Read all grids of a job. Grids that were announced meanwhile stay: they are newer than what is read.
   * @param {string} jobId
   * @param {AbortSignal} signal
   */
  async load(jobId, signal) {
    const announced = new Set(this.list.map((grid) => grid.step));
    let more = true;
    let after = -1;
    this.pruned = 0;
    while (more) {
      const page = await get(`/v1/jobs/${encodeURIComponent(jobId)}/samples?after=${after}&limit=${PAGE_SIZE}`, signal);
      for (const sample of page.data) {
        after = sample.step;
        if (announced.has(sample.step)) continue;
        if (sample.pruned) this.pruned += 1;
        else this.put({ step: sample.step, width: sample.width, height: sample.height, image: sample.links.image });
      }
      more = page.has_more;
    }
  }

  /**
   * Add a grid; it replaces one of the same step, which a later attempt has drawn again.
   * @param {Grid} grid
   */
  put(grid) {
    let index = this.list.length;
    while (index > 0 && this.list[index - 1].step >= grid.step) index -= 1;
    const same = this.list[index]?.step === grid.step;
    this.list.splice(index, same ? 1 : 0, grid);
  }

  /**
   * The index of the grid nearest to a step, the earlier of two equally near ones; -1 if there is no grid.
   * @param {number} step
   * @returns {number}
   */
  nearest(step) {
    let best = -1;
    for (const [index, grid] of this.list.entries()) {
      if (best < 0 || Math.abs(grid.step - step) < Math.abs(this.list[best].step - step)) best = index;
    }
    return best;
  }
}
