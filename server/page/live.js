// The event stream of one job: its events in order and without gaps, reconnected by itself.

import { address, get, passes } from "./api.js";

const RETRY_MS = 1000;
const MOST_DOUBLINGS = 4;

const TYPES = [
  "job.state", "job.started", "job.progress", "job.notice", "job.stalled", "metric.batch", "sample.created",
  "checkpoint.created", "checkpoint.rejected", "evaluation.completed", "log.lines",
];

/** @typedef {{seq: number, time: string, type: string, data: any}} Event */

/**
 * Follow a job from now on. `onEvent` gets its new events; `onConnection` whether the service is heard: "live",
 * "reconnecting", "ended", or "again": events were missed, or requests are refused for a reason that the next one tells,
 * so that the view must be drawn anew. Returns a function that stops.
 * @param {string} jobId
 * @param {(event: Event) => void} onEvent
 * @param {(state: "live" | "reconnecting" | "again" | "ended") => void} onConnection
 * @returns {() => void}
 */
export function follow(jobId, onEvent, onConnection) {
  const path = `/v1/jobs/${encodeURIComponent(jobId)}`;
  /** @type {EventSource | null} */
  let source = null;
  let stopped = false;
  let missed = false; // whether a stream ended before this one
  let tries = 0;
  let timer = 0;

  function connect() {
    source = new EventSource(address(`${path}/stream?after=${Number.MAX_SAFE_INTEGER}`));
    source.onopen = () => onConnection(missed ? "again" : "live");
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
    if (stopped) return;
    onConnection("reconnecting");
    missed = true;
    clearTimeout(timer);
    timer = setTimeout(ask, RETRY_MS * 2 ** Math.min(tries, MOST_DOUBLINGS));
    tries += 1;
  }

  /**
   * A stream that is refused or closed does not say why; another request does. If that is answered, only the stream was
   * refused, such as one more than a key may have: it is tried again, and the view stays.
   */
  async function ask() {
    try {
      await get(path);
    } catch (error) {
      if (passes(error)) retry();
      else if (!stopped) onConnection("again");
      return;
    }
    if (!stopped) connect();
  }

  connect();
  return () => {
    stopped = true;
    clearTimeout(timer);
    source?.close();
  };
}
