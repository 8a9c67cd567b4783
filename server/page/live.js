// The event stream of one job: its events in order and without gaps, reconnected by itself.

import { address, get, Problem } from "./api.js";

const RETRY_MS = 1000;

const TYPES = [
  "job.state", "job.started", "job.progress", "job.notice", "job.stalled", "metric.batch", "sample.created",
  "checkpoint.created", "checkpoint.rejected", "evaluation.completed", "log.lines",
];

/** @typedef {{seq: number, time: string, type: string, data: any}} Event */

/**
 * Follow a job from now on. `onEvent` gets its new events; `onConnection` whether the service is heard: "live",
 * "reconnecting", "ended", or "again": it answers again after the browser gave up, or the stream was closed for a reason
 * that the next request tells, so that the view must be drawn anew. Returns a function that stops.
 * @param {string} jobId
 * @param {(event: Event) => void} onEvent
 * @param {(state: "live" | "reconnecting" | "again" | "ended") => void} onConnection
 * @returns {() => void}
 */
export function follow(jobId, onEvent, onConnection) {
  /** @type {EventSource | null} */
  let source = null;
  let stopped = false;
  let timer = 0;

  function connect() {
    source = new EventSource(address(`/v1/jobs/${jobId}/stream?after=${Number.MAX_SAFE_INTEGER}`));
    source.onopen = () => onConnection("live");
    source.onerror = () => {
      onConnection("reconnecting");
      if (source?.readyState === EventSource.CLOSED) retry();
    };
    for (const type of TYPES) source.addEventListener(type, heard);
    for (const type of ["server.restarting", "stream.closed"]) {
      source.addEventListener(type, () => { source?.close(); retry(); });
    }
    source.addEventListener("stream.end", () => { source?.close(); onConnection("ended"); });
  }

  /** @param {MessageEvent} message */
  function heard(message) {
    onEvent(JSON.parse(message.data));
  }

  function retry() {
    onConnection("reconnecting");
    clearTimeout(timer);
    if (!stopped) timer = setTimeout(ask, RETRY_MS);
  }

  /** A stream that is refused or closed does not say why; another request does. */
  async function ask() {
    try {
      await get(`/v1/jobs/${jobId}`);
    } catch (error) {
      if (!(error instanceof Problem) || error.status >= 500) {
        retry();
        return;
      }
    }
    if (!stopped) onConnection("again");
  }

  connect();
  return () => {
    stopped = true;
    clearTimeout(timer);
    source?.close();
  };
}
