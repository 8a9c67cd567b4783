// The event stream of one job: its events in order and without gaps, reconnected by itself.

import { address } from "./api.js";

const TYPES = [
  "job.state", "job.started", "job.progress", "job.notice", "job.stalled", "metric.batch", "sample.created",
  "checkpoint.created", "checkpoint.rejected", "evaluation.completed", "log.lines",
];

/** @typedef {{seq: number, time: string, type: string, data: any}} Event */

/**
 * Follow a job from now on. `onEvent` gets its new events; `onConnection` whether the service is heard: "live",
 * "reconnecting", "ended", or "again" if it was away for so long that the browser gave up, and events may be missing.
 * Returns a function that stops.
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

  /** @param {"live" | "again"} state */
  function connect(state) {
    source = new EventSource(address(`/v1/jobs/${jobId}/stream?after=${Number.MAX_SAFE_INTEGER}`));
    source.onopen = () => onConnection(state);
    source.onerror = () => {
      onConnection("reconnecting");
      if (source?.readyState === EventSource.CLOSED) retry();
    };
    for (const type of TYPES) source.addEventListener(type, heard);
    source.addEventListener("server.restarting", () => { source?.close(); retry(); });
    for (const type of ["stream.end", "stream.closed"]) source.addEventListener(type, end);
  }

  /** @param {MessageEvent} message */
  function heard(message) {
    onEvent(JSON.parse(message.data));
  }

  function retry() {
    onConnection("reconnecting");
    clearTimeout(timer);
    if (!stopped) timer = setTimeout(() => connect("again"), 1000);
  }

  function end() {
    source?.close();
    onConnection("ended");
  }

  connect("live");
  return () => {
    stopped = true;
    clearTimeout(timer);
    source?.close();
  };
}
