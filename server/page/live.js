// The event stream of one job: its events in order and without gaps, reconnected by itself.

import { address } from "./api.js";

const TYPES = [
  "job.state", "job.started", "job.progress", "job.notice", "job.stalled", "metric.batch", "sample.created",
  "checkpoint.created", "checkpoint.rejected", "evaluation.completed", "log.lines",
];

/** @typedef {{seq: number, time: string, type: string, data: any}} Event */

/**
 * Follow a job. `onEvent` gets its new events; `onConnection` whether the service is heard ("live", "reconnecting",
 * "ended"). Returns a function that stops.
 * @param {string} jobId
 * @param {number} after the last event that is known
 * @param {(event: Event) => void} onEvent
 * @param {(state: "live" | "reconnecting" | "ended") => void} onConnection
 * @returns {() => void}
 */
export function follow(jobId, after, onEvent, onConnection) {
  /** @type {EventSource | null} */
  let source = null;
  let stopped = false;
  let timer = 0;

  function connect() {
    source = new EventSource(address(`/v1/jobs/${jobId}/stream?after=${after}`));
    source.onopen = () => onConnection("live");
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
    const event = JSON.parse(message.data);
    after = event.seq;
    onEvent(event);
  }

  function retry() {
    onConnection("reconnecting");
    clearTimeout(timer);
    if (!stopped) timer = setTimeout(connect, 1000);
  }

  function end() {
    source?.close();
    onConnection("ended");
  }

  connect();
  return () => {
    stopped = true;
    clearTimeout(timer);
    source?.close();
  };
}
