"""The tables. Times are whole milliseconds since 1970 UTC. No query looks inside a JSON column.

`rows.py` has the Python type of each row.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only if the column's type is exactly INTEGER. Other databases need BIGINT for 64 bits.
_Sequence = BigInteger().with_variant(Integer, "sqlite")


class _ForkedFrom(TypeDecorator[Any]):
    """JSON as `rows.ForkedFrom`. Old rows call same_config same_recipe, and lack one_config, which is the same then."""

    impl = JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return value
        renamed = {"same_config" if key == "same_recipe" else key: content for key, content in value.items()}
        return {"one_config": renamed["same_config"], **renamed}


api_keys = Table(
    "api_keys",
    metadata,
    Column("prefix", String(16), primary_key=True),
    Column("secret_sha256", String(64), nullable=False),
    Column("name", String(100), nullable=False),
    Column("project", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    # Limits of this key in place of the operator's settings; none if the settings hold.
    Column("max_priority", Integer),
    Column("max_queued_jobs", Integer),
    Column("max_streams", Integer),
)

experiments = Table(
    "experiments",
    metadata,
    Column("seq", _Sequence, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("project", String(64), nullable=False),
    Column("name", String(200)),
    Column("labels", JSON, nullable=False),
    Column("base", JSON, nullable=False),
    Column("matrix", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index(None, "project", "seq"),
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", _Sequence, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("project", String(64), nullable=False),
    # train; or sample or score: short tasks on a checkpoint of another job.
    Column("kind", String(10), nullable=False),
    Column("name", String(200)),
    Column("labels", JSON, nullable=False),
    Column("origin", String(10), nullable=False),  # submitted, forked, imported
    Column("experiment_id", String(40), ForeignKey("experiments.id")),
    Column("cell", JSON),
    Column("forked_from", _ForkedFrom),
    # The work: a RunConfig document, or the parameters of a task.
    Column("request", JSON, nullable=False),
    Column("request_sha256", String(64), nullable=False),
    Column("variant", String(40)),
    Column("seed", BigInteger),
    Column("device", String(8), nullable=False),  # auto, cpu or cuda: the slots it may use
    Column("wall_seconds_limit", Float),
    Column("start_deadline", BigInteger),
    # The job's progress.
    Column("state", String(12), nullable=False),
    Column("reason", String(32)),
    Column("message", Text),
    Column("exit_code", Integer),
    Column("priority", Integer, nullable=False),
    # Claim order, smallest first: the time of queueing, moved by the priority. Every waiting job comes closer to its
    # turn, whatever its priority.
    Column("rank", BigInteger, nullable=False),
    Column("not_before", BigInteger),
    Column("lease_epoch", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("infrastructure_used", Integer, nullable=False),
    Column("program_used", Integer, nullable=False),
    Column("stop_mode", String(10)),  # graceful or now, while pausing, cancelling or recovering
    Column("stop_at", BigInteger),
    Column("step", BigInteger, nullable=False),
    Column("total_steps", BigInteger),
    Column("steps_per_second", Float),
    Column("images_per_second", Float),
    Column("eta_seconds", Float),
    Column("result", JSON),
    Column("wall_seconds_used", Float, nullable=False),
    # How far the indexer has read this job's files.
    Column("events_offset", BigInteger, nullable=False),
    Column("events_seq", BigInteger, nullable=False),
    Column("console_offset", BigInteger, nullable=False),
    Column("journal_seq", BigInteger, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("queued_at", BigInteger),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    # Lists in their order. The columns behind `seq` are those of the filters: a row that a filter refuses is not read.
    Index("ix_jobs_listed", "project", "kind", "seq", "state", "variant", "created_at", "name"),
    # The first waiting job of a kind for a device.
    Index("ix_jobs_claimed", "state", "kind", "device", "rank", "seq", "not_before"),
    Index("ix_jobs_deadline", "state", "start_deadline", sqlite_where=text("start_deadline IS NOT NULL")),
    Index("ix_jobs_counted", "project", "state"),
    Index("ix_jobs_experiment", "experiment_id", "seq", "state"),
    Index(None, "request_sha256"),
    sqlite_autoincrement=True,
)

job_labels = Table(
    "job_labels",
    metadata,
    Column("job_seq", _Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("value", String(200), nullable=False),
    Index(None, "key", "value", "job_seq"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("executor", String(20), nullable=False),
    Column("slot", String(40), nullable=False),
    Column("handle", JSON),
    Column("live", Boolean, nullable=False),  # until the executor reports that its processes are gone
    Column("resumed_from_step", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("cause", String(20)),
    Column("reason", String(32)),
    Column("message", Text),
    UniqueConstraint("job_id", "number"),
    Index(None, "live"),
)

# The durable history: one row per change of state, or per batch of a run's events. `seq` orders all rows; `job_seq`
# counts within one job, without gaps.
journal = Table(
    "journal",
    metadata,
    Column("seq", _Sequence, primary_key=True),
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("job_seq", BigInteger, nullable=False),
    Column("type", String(32), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("data", JSON, nullable=False),
    UniqueConstraint("job_id", "job_seq"),
    Index(None, "job_id", "seq"),
    sqlite_autoincrement=True,
)

metric_names = Table(
    "metric_names",
    metadata,
    Column("id", _Sequence, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
)

# kind: 0 finite, 1 NaN, 2 infinity, 3 minus infinity. value: 0 unless finite, because SQL has no NaN.
metric_points = Table(
    "metric_points",
    metadata,
    Column("job_seq", _Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True),
    Column("name_id", _Sequence, ForeignKey("metric_names.id"), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("value", Float, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("superseded", Boolean, nullable=False),  # a later attempt repeated this step
    sqlite_with_rowid=False,
)

# Summaries of the points that are not superseded, by blocks of server.store.metric_points.BLOCK_STEPS steps, so that a
# long history is not read point by point. min, max: of the finite values, NULL if there is none.
metric_blocks = Table(
    "metric_blocks",
    metadata,
    Column("job_seq", _Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True),
    Column("name_id", _Sequence, ForeignKey("metric_names.id"), primary_key=True),
    Column("block", BigInteger, primary_key=True),
    Column("last_step", BigInteger, nullable=False),
    Column("min", Float),
    Column("max", Float),
    Column("points", Integer, nullable=False),
    Column("nonfinite", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# The latest and the best value of each metric, so that lists of jobs need no history.
metric_summary = Table(
    "metric_summary",
    metadata,
    Column("job_seq", _Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("step", BigInteger, nullable=False),
    Column("value", Float, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("min", Float),
    Column("max", Float),
    Column("best", Float),
    Column("best_step", BigInteger),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("purpose", String(20), primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("scores", JSON, nullable=False),  # non-finite numbers by name
    Column("protocol", String(100), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("seconds", Float, nullable=False),
)

# `path` is relative to the job's directory. The API never shows it.
samples = Table(
    "samples",
    metadata,
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("path", String(200), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("pruned_at", BigInteger),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),  # of the manifest, which contains the hash of the tensors
    Column("path", String(200), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("status", String(10), nullable=False),  # available, rejected, pruned
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("job_id", "step"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("path", String(200), nullable=False),
    Column("media_type", String(60), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(80), primary_key=True),
    Column("method", String(8), primary_key=True),
    Column("path", String(200), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body_sha256", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("headers", JSON, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index(None, "created_at"),
)

service_state = Table(
    "service_state",
    metadata,
    Column("key", String(40), primary_key=True),
    Column("value", JSON, nullable=False),
)
