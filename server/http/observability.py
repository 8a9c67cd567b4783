"""Monitoring: Prometheus metrics in a registry per application, and one log line per request."""

import time
from collections import Counter as Tally
from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gan_mhe.records.run_dir import RunDir
from server.clock import now_ms
from server.http import errors
from server.queue.states import LIVE, State
from server.service import Service
from server.store import tables

_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
_UNMATCHED, _OTHER = "unmatched", "other"
# Other methods share one label: a client can make up any number of them, without a key, and no label is ever freed.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})

_jobs = tables.jobs
_log = structlog.get_logger("server.access")


class Metrics:
    """The metrics of one application."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gan_mhe_http_requests", "Requests answered", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "gan_mhe_http_request_seconds",
            "Time to the end of the response, event streams excluded",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.streams = Gauge("gan_mhe_event_streams", "Open event streams", registry=self.registry)
        self.registry.register(_Jobs(service))


class _Jobs(Collector):
    """Jobs, queue and slots, read when metrics are collected."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # otherwise registration would collect, and read a database that is not open yet

    def collect(self) -> Iterator[GaugeMetricFamily]:
        counts, oldest, lag = self._service.store.read(self._query)
        jobs = GaugeMetricFamily("gan_mhe_jobs", "Jobs and tasks by kind and state", labels=("kind", "state"))
        for (kind, state), count in counts.items():
            jobs.add_metric((kind, state), count)
        yield jobs
        age = 0.0 if oldest is None else max(0, now_ms() - oldest) / 1000
        yield GaugeMetricFamily("gan_mhe_queue_age_seconds", "Longest waiting time of a queued job", value=age)
        yield GaugeMetricFamily(
            "gan_mhe_ingest_lag_bytes", "Event bytes written by running jobs and not read", value=lag
        )
        heartbeat = self._service.engine.heartbeat_age()
        yield GaugeMetricFamily(
            "gan_mhe_engine_heartbeat_age_seconds", "Time since the engine's last round", value=heartbeat
        )
        slots = GaugeMetricFamily("gan_mhe_slots", "Slots by purpose and availability", labels=("purpose", "available"))
        inventory = self._service.executor.inventory()
        for (purpose, available), count in Tally((slot.purpose, slot.available) for slot in inventory).items():
            slots.add_metric((purpose, str(available).lower()), count)
        yield slots

    def _query(self, connection: Connection) -> tuple[dict[tuple[str, str], int], int | None, int]:
        by_state = select(_jobs.c.kind, _jobs.c.state, func.count()).group_by(_jobs.c.kind, _jobs.c.state)
        counts = {(kind, state): count for kind, state, count in connection.execute(by_state)}
        queued = select(func.min(_jobs.c.queued_at)).where(_jobs.c.state == State.QUEUED)
        live = select(_jobs.c.id, _jobs.c.events_offset).where(_jobs.c.state.in_(LIVE))
        lag = sum(self._unread_bytes(job_id, offset) for job_id, offset in connection.execute(live))
        return counts, connection.execute(queued).scalar_one(), lag

    def _unread_bytes(self, job_id: str, offset: int) -> int:
        try:
            size = RunDir(self._service.settings.job_dir(job_id) / "run").events.stat().st_size
        except OSError:
            return 0
        return max(0, size - offset)


class Observation:
    """ASGI middleware that counts, times and logs every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status, streaming = 500, False

        async def send_observed(message: Message) -> None:
            nonlocal status, streaming
            if message["type"] == "http.response.start":
                status = message["status"]
                streaming = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
                self._metrics.streams.inc(streaming)
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        finally:
            self._metrics.streams.dec(streaming)
            self._record(scope, status, None if streaming else time.monotonic() - began)

    def _record(self, scope: Scope, status: int, seconds: float | None) -> None:
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        method = scope["method"] if scope["method"] in _METHODS else _OTHER
        self._metrics.requests.labels(method, route, status).inc()
        if seconds is not None:
            self._metrics.seconds.labels(method, route).observe(seconds)
        if route not in _QUIET:
            request = {"method": scope["method"], "path": scope["path"], "status": status}
            milliseconds = None if seconds is None else round(seconds * 1000, 1)
            _log.info("request", **request, milliseconds=milliseconds, request_id=errors.request_id(scope))
