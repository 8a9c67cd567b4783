"""The jobs that a request selects: by id, all jobs of an experiment, or both."""

from typing import Annotated

from fastapi import Depends, Query
from sqlalchemy import Connection

from server.errors import FieldError, InvalidRequest
from server.queue import experiments, queue
from server.store.rows import JobRow

MAX_IDS = 200


class _Selection:
    """The query parameters `job` and `experiment`."""

    def __init__(
        self,
        job: Annotated[
            list[str] | None, Query(max_length=MAX_IDS, description="Job id; repeat the parameter for several.")
        ] = None,
        experiment: Annotated[
            str | None, Query(max_length=64, description="Experiment id; selects all its jobs.")
        ] = None,
    ) -> None:
        if not job and experiment is None:
            raise InvalidRequest(FieldError("/query/job", "missing", "expected job or experiment, got neither"))
        self._job_ids = list(dict.fromkeys(job or []))
        self._experiment_id = experiment

    def rows(self, connection: Connection, project: str) -> list[JobRow]:
        """The distinct jobs. Raises NotFound if one does not exist or belongs to another project."""
        found = []
        if self._experiment_id is not None:
            experiments.get(connection, self._experiment_id, project)
            found = experiments.jobs(connection, self._experiment_id)
        known = {job["id"] for job in found}
        return [*found, *(queue.get(connection, id_, project) for id_ in self._job_ids if id_ not in known)]


Selection = Annotated[_Selection, Depends()]
