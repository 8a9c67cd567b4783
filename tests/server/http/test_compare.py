"""Comparisons over HTTP."""

import csv
import io
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, update

from gan_mhe.config.documents import merge
from gan_mhe.config.run_config import RunConfig
from server.queue import admission, experiments, queue
from server.queue.admission import Source
from server.queue.experiments import Plan
from server.queue.states import Reason, State
from server.service import Service
from server.store import tables

REAL = 9.7


def result(config: RunConfig, score: float | str, fingerprint: str = "f" * 64) -> dict[str, Any]:
    scores = {"inception_score": score, "fid": 30.0 + config.seed, "kid": 0.1, "precision": 0.5, "recall": 0.4}
    return {
        "status": "completed",
        "step": config.training.steps,
        "variant": config.variant,
        "seed": config.seed,
        "digest": config.digest(),
        "protocol": "digits-v1",
        "fingerprint": fingerprint,
        "metric": "inception_score",
        "final": {"step": config.training.steps, "scores": scores},
        "best": None,
        "evaluations": 1,
        "real": {"inception_score": REAL},
        "train_seconds": 1.0,
        "message": "",
    }


def train(
    service: Service,
    variant: str,
    seed: int,
    score: float | str | None,
    *,
    overrides: dict[str, Any] | None = None,
    state: State = State.SUCCEEDED,
    project: str = "default",
    fingerprint: str = "f" * 64,
    more: Mapping[str, Any] | None = None,
    **attributes: Any,
) -> str:
    """Create a job that has ended with a score, or one in another state without. more: further fields of its result."""
    config = RunConfig.model_validate(merge({"variant": variant, "seed": seed}, overrides or {}))

    def work(connection: Connection) -> str:
        job = queue.create(connection, admission.new_job(config, project, **attributes), state)
        if score is not None:
            values = {"result": result(config, score, fingerprint) | (more or {})}
            connection.execute(update(tables.jobs).where(tables.jobs.c.id == job["id"]).values(values))
        return str(job["id"])

    return service.store.write(work)


def experiment(service: Service) -> str:
    plan = Plan(Source(preset="debug_cpu"), {}, [])
    return str(
        service.store.write(
            lambda c: experiments.create(c, experiments.prepare(plan, "default", name=None, labels={}))
        )["id"]
    )


def compare(client: TestClient, *jobs: str, **params: Any) -> dict[str, Any]:
    response = client.get("/v1/compare", params={"job": jobs, **params})
    assert response.status_code == 200, response.text
    table: dict[str, Any] = response.json()
    return table


def problem(response: Any, status: int, code: str) -> str:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    return str(response.json()["detail"])


def test_jobs_become_a_row_a_variant_with_the_spread_over_seeds(client: TestClient, service: Service) -> None:
    jobs = [train(service, "mhe", seed, 7.0 + seed) for seed in range(3)]
    jobs += [train(service, "none", seed, 6.0) for seed in range(2)]
    table = compare(client, *jobs)
    assert (table["metric"], table["protocol"], table["confidence"]) == ("inception_score", "digits-v1", 0.95)
    assert (table["real"], table["same_budget"], table["unfinished"]) == (REAL, True, [])
    [mhe, none] = table["rows"]
    assert (mhe["variant"], mhe["n"], mhe["mean"], mhe["std"]) == ("mhe", 3, 8.0, 1.0)
    assert mhe["jobs"] == jobs[:3]
    assert mhe["ci_low"] < 8.0 < mhe["ci_high"]
    assert (none["variant"], none["n"], none["mean"]) == ("none", 2, 6.0)
    assert mhe["boot_low"] < 8.0 < mhe["boot_high"]
    assert (mhe["best_of"], mhe["mean_rank"], mhe["first_share"], table["ranked_seeds"]) == (0, 1.0, 1.0, 2)
    assert (none["boot_low"], none["mean_rank"]) == (None, 2.0)
    assert "difference" not in mhe and "p_value" not in mhe


def test_jobs_of_a_variant_that_no_longer_exists_are_compared_under_its_name(
    client: TestClient, service: Service
) -> None:
    job = train(service, "mhe", 0, 7.0)
    old = RunConfig.stored(RunConfig.model_validate({"variant": "mhe"}).document() | {"variant": "mhe_of_old"})
    values = {"request": old.document(), "result": result(old, 7.0)}
    service.store.write(lambda c: c.execute(update(tables.jobs).where(tables.jobs.c.id == job).values(values)))
    assert [row["variant"] for row in compare(client, job)["rows"]] == ["mhe_of_old"]


def test_without_a_metric_the_jobs_own_is_compared(client: TestClient, service: Service) -> None:
    by_fid = train(service, "mhe", 0, 7.0, more={"metric": "fid"})
    assert compare(client, by_fid)["metric"] == "fid"
    assert compare(client, by_fid, metric="kid")["metric"] == "kid"
    response = client.get("/v1/compare", params={"job": [by_fid, train(service, "none", 0, 6.0)]})
    assert "metric: expected a name" in problem(response, 422, "config_invalid")


def test_differences_to_a_reference_are_taken_seed_by_seed(client: TestClient, service: Service) -> None:
    jobs = [train(service, "mhe", seed, 7.0 + seed) for seed in range(3)]
    jobs += [train(service, "none", seed, 6.0 + seed) for seed in range(3)]
    [mhe, none] = compare(client, *jobs, reference="none")["rows"]
    assert (mhe["difference"], mhe["pairs"]) == (1.0, 3)
    assert none["difference"] is None


def test_differences_are_tested_and_the_minimum_detectable_effect_is_shown(
    client: TestClient, service: Service
) -> None:
    jobs = [train(service, "mhe", seed, score) for seed, score in enumerate((7.3, 7.5, 7.3, 7.2, 7.2))]
    jobs += [train(service, "none", seed, score) for seed, score in enumerate((7.0, 7.4, 6.8, 7.1, 6.9))]
    [mhe, none] = compare(client, *jobs, reference="none")["rows"]
    # Differences 0.3, 0.1, 0.5, 0.1, 0.3: t = 3.4744 with 4 degrees of freedom; 1.682 * 0.16733.
    assert mhe["p_value"] == mhe["p_holm"] == pytest.approx(0.02548, abs=1e-5)
    assert (mhe["p_permutation"], mhe["minimum_detectable_effect"]) == (0.0625, pytest.approx(0.28145, abs=1e-5))
    assert [none[key] for key in ("p_value", "p_holm", "p_permutation", "minimum_detectable_effect")] == [None] * 4


def timed(seconds: float, *curve: tuple[int, float]) -> dict[str, Any]:
    points = [{"step": step, "scores": {"inception_score": score}} for step, score in curve]
    return {"step": 1000, "train_seconds": seconds, "curve": points}


def test_jobs_are_compared_after_equal_training_time(client: TestClient, service: Service) -> None:
    jobs = [train(service, "none", 0, 6.0, more=timed(100.0, (500, 5.0)))]
    jobs += [train(service, "mhe", 0, 8.0, more=timed(200.0, (500, 7.0), (1000, 8.0)))]
    jobs += [train(service, "mhe_sn", 0, 9.0, more=timed(250.0, (300, 6.0), (500, 8.0)))]
    jobs += [train(service, "half_mhe", 0, 9.0, more=timed(300.0, (500, 7.5)))]
    table = compare(client, *jobs, view="wall_time")
    assert (table["view"], table["budget_seconds"], table["unfinished"]) == ("wall_time", 100.0, [])
    assert [(row["variant"], row["mean"], row["failed"], row["step"]) for row in table["rows"]] == [
        ("mhe", 7.0, 0, 500),
        ("mhe_sn", 7.0, 0, 400),  # halfway between its scores at 300 and 500
        ("none", 6.0, 0, 1000),
        ("half_mhe", None, 1, 333),
    ]
    by_steps = compare(client, *jobs)
    assert by_steps["view"] == "steps" and "budget_seconds" not in by_steps
    assert [(row["mean"], row["step"]) for row in by_steps["rows"]] == [(s, 1000) for s in (9.0, 9.0, 8.0, 6.0)]


def test_jobs_without_a_training_time_are_not_compared_by_it(client: TestClient, service: Service) -> None:
    job = train(service, "none", 0, 6.0, more={"train_seconds": 0.0})
    detail = problem(client.get("/v1/compare", params={"job": job, "view": "wall_time"}), 422, "config_invalid")
    assert "train_seconds" in detail


def test_an_unknown_view_is_refused(client: TestClient, service: Service) -> None:
    job = train(service, "none", 0, 6.0)
    problem(client.get("/v1/compare", params={"job": job, "view": "time"}), 422, "invalid_request")


def test_another_metric_is_compared_its_own_way(client: TestClient, service: Service) -> None:
    table = compare(client, train(service, "mhe", 0, 7.0), metric="fid")
    assert table["rows"][0]["mean"] == 30.0


def test_an_experiment_is_compared_as_a_whole(client: TestClient, service: Service) -> None:
    own = experiment(service)
    jobs = [train(service, "mhe", seed, 7.0, experiment_id=own, cell={"seed": seed}) for seed in range(2)]
    train(service, "none", 0, 7.0)
    response = client.get("/v1/compare", params={"experiment": own})
    assert [row["jobs"] for row in response.json()["rows"]] == [jobs]


def test_every_swept_combination_is_a_row_of_its_own(client: TestClient, service: Service) -> None:
    own, key = experiment(service), "constraints.mhe.lambda_hidden"
    for value, score in ((1.0, 7.0), (10.0, 8.0)):
        for seed in range(2):
            cell = {"variant": "mhe", "seed": seed, key: value}
            overrides = {"constraints": {"mhe": {"lambda_hidden": value}}}
            train(service, "mhe", seed, score + seed, overrides=overrides, experiment_id=own, cell=cell)
    table = client.get("/v1/compare", params={"experiment": own, "reference": "mhe"}).json()
    assert [(row["variant"], row["n"]) for row in table["rows"]] == [(f"mhe + {key}=10", 2), ("mhe", 2)]
    assert table["rows"][0]["difference"] == 1.0


def test_a_reference_may_omit_swept_values_if_it_is_unambiguous(client: TestClient, service: Service) -> None:
    steps = {"training.steps": 1000}
    one = train(service, "mhe", 0, 7.0, cell={"variant": "mhe", **steps})
    two = train(service, "none", 0, 6.0, cell={"variant": "none", **steps})
    assert compare(client, one, two, reference="none")["reference"] == "none [training.steps=1000]"
    three = train(service, "none", 0, 6.0, overrides={"training": {"steps": 20}}, cell={"training.steps": 20})
    response = client.get("/v1/compare", params={"job": [one, two, three], "reference": "none"})
    detail = problem(response, 422, "invalid_request")
    assert "none [training.steps=1000]" in detail and "none [training.steps=20]" in detail


def test_a_swept_name_is_shown_unchanged(client: TestClient, service: Service) -> None:
    kind, cell = "cosine_decay", {"variant": "mhe", "optimizer.schedule.kind": "cosine_decay"}
    job = train(service, "mhe", 0, 7.0, overrides={"optimizer": {"schedule": {"kind": kind}}}, cell=cell)
    assert compare(client, job)["rows"][0]["variant"] == f"mhe [optimizer.schedule.kind={kind}]"


@pytest.mark.parametrize("cell", [None, {"variant": "mhe", "loss": "hinge"}])
def test_a_job_that_is_not_its_variant_has_a_row_of_its_own(
    client: TestClient, service: Service, cell: dict[str, Any] | None
) -> None:
    jobs = [train(service, "mhe", 0, 7.0), train(service, "mhe", 1, 8.0, overrides={"loss": "hinge"}, cell=cell)]
    assert [row["variant"] for row in compare(client, *jobs)["rows"]] == ["mhe + loss=hinge", "mhe"]


def test_jobs_of_one_configuration_on_other_images_are_refused(client: TestClient, service: Service) -> None:
    jobs = [train(service, "mhe", seed, 7.0, more={"data": {"sha256": str(seed) * 64}}) for seed in range(2)]
    detail = problem(client.get("/v1/compare", params={"job": jobs}), 422, "protocol_mismatch")
    assert all(part in detail for part in (*jobs, "0" * 12, "1" * 12))


def test_a_result_of_another_configuration_is_refused(client: TestClient, service: Service) -> None:
    job = train(service, "mhe", 0, 7.0, more={"seed": 3})
    detail = problem(client.get("/v1/compare", params={"job": job}), 422, "invalid_request")
    assert "seed is 3 in the result, 0 in the configuration" in detail


@pytest.mark.parametrize("more", [{"final": [1]}, {"curve": 3}, {"fingerprints": 7}, {"real": "9"}])
def test_a_result_that_cannot_be_read_is_refused_by_the_jobs_name(
    client: TestClient, service: Service, more: dict[str, Any]
) -> None:
    job = train(service, "mhe", 0, 7.0, more=more)
    detail = problem(client.get("/v1/compare", params={"job": job}), 422, "invalid_request")
    assert job in detail and "cannot be read" in detail


def test_a_job_that_ended_without_a_final_score_is_listed(client: TestClient, service: Service) -> None:
    scored, diverged = train(service, "mhe", 0, 7.0), train(service, "mhe", 1, 7.0, state=State.FAILED)
    rows = tables.jobs
    without = {"status": "diverged", "final": None, "best": None, "real": None}
    service.store.write(lambda c: c.execute(update(rows).where(rows.c.id == diverged).values(result=without)))
    table = compare(client, scored, diverged)
    assert table["unfinished"] == [{"job_id": diverged, "state": "failed"}]
    assert [(row["failed"], row["diverged"]) for row in table["rows"]] == [(1, 1)]


def test_a_job_whose_training_diverged_counts_as_diverged_without_any_result(
    client: TestClient, service: Service
) -> None:
    scored, diverged = train(service, "mhe", 0, 7.0), train(service, "mhe", 1, None, state=State.FAILED)
    rows = tables.jobs
    service.store.write(lambda c: c.execute(update(rows).where(rows.c.id == diverged).values(reason=Reason.DIVERGED)))
    [row] = compare(client, scored, diverged)["rows"]
    assert (row["failed"], row["diverged"]) == (1, 1)


def test_jobs_without_a_score_are_listed(client: TestClient, service: Service) -> None:
    scored = train(service, "mhe", 0, 7.0)
    failed = train(service, "mhe", 1, None, state=State.FAILED)
    waiting = train(service, "none", 0, None, state=State.QUEUED)
    table = compare(client, scored, failed, waiting)
    assert table["unfinished"] == [{"job_id": failed, "state": "failed"}, {"job_id": waiting, "state": "queued"}]
    assert [(row["variant"], row["n"], row["failed"]) for row in table["rows"]] == [("mhe", 1, 1), ("none", 0, 1)]


def test_a_score_that_is_not_finite_counts_as_diverged(client: TestClient, service: Service) -> None:
    jobs = [train(service, "mhe", 0, "NaN"), train(service, "mhe", 1, 7.0)]
    found = compare(client, *jobs)
    assert (found["rows"][0]["mean"], found["rows"][0]["n"], found["rows"][0]["diverged"]) == (7.0, 1, 1)


def test_scores_of_two_protocols_are_not_compared(client: TestClient, service: Service) -> None:
    jobs = [train(service, "mhe", 0, 7.0), train(service, "none", 0, 7.0, fingerprint="0" * 64)]
    detail = problem(client.get("/v1/compare", params={"job": jobs}), 422, "protocol_mismatch")
    assert all(job in detail for job in jobs)


def test_a_fork_with_a_changed_configuration_is_not_compared(client: TestClient, service: Service) -> None:
    source = train(service, "mhe", 0, 7.0)
    forked = {"job_id": source, "checkpoint_id": "ckpt_1", "step": 100, "same_config": False}
    changed = train(service, "none", 0, 7.0, forked_from=forked)
    kept = train(service, "none", 0, 7.0, forked_from={**forked, "same_config": True})
    detail = problem(client.get("/v1/compare", params={"job": [source, changed]}), 422, "invalid_request")
    assert changed in detail and source in detail
    assert compare(client, source, kept)["rows"][0]["n"] == 1


def test_a_variant_with_two_configurations_is_not_averaged(client: TestClient, service: Service) -> None:
    jobs = [train(service, "mhe", 0, 7.0), train(service, "mhe", 1, 7.0, overrides={"training": {"steps": 7}})]
    detail = problem(client.get("/v1/compare", params={"job": jobs}), 422, "config_invalid")
    assert all(job in detail for job in jobs)


def test_nothing_scored_yet_is_not_ready(client: TestClient, service: Service) -> None:
    job = train(service, "mhe", 0, None, state=State.QUEUED)
    problem(client.get("/v1/compare", params={"job": job}), 409, "not_ready")


@pytest.mark.parametrize("params", [{"metric": "beauty"}, {"reference": "mhes"}])
def test_an_unknown_name_is_refused(client: TestClient, service: Service, params: dict[str, str]) -> None:
    job = train(service, "mhe", 0, 7.0)
    problem(client.get("/v1/compare", params={"job": job, **params}), 422, "config_invalid")


def test_a_task_is_not_compared(client: TestClient, service: Service) -> None:
    new = queue.NewJob(project="default", request={}, request_sha256="0", kind="sample")
    task = service.store.write(lambda c: queue.create(c, new))["id"]
    problem(client.get("/v1/compare", params={"job": task}), 422, "invalid_request")


def test_another_projects_jobs_do_not_exist(client: TestClient, service: Service) -> None:
    job = train(service, "mhe", 0, 7.0, project="other")
    problem(client.get("/v1/compare", params={"job": job}), 404, "not_found")


def test_an_empty_selection_is_rejected(client: TestClient) -> None:
    problem(client.get("/v1/compare"), 422, "invalid_request")


@pytest.mark.parametrize(
    ("headers", "params"),
    [({}, {"format": "csv"}), ({"Accept": "text/csv, */*"}, {}), ({"Accept": "text/markdown"}, {"format": "csv"})],
)
def test_a_table_comes_as_csv(
    client: TestClient, service: Service, headers: dict[str, str], params: dict[str, str]
) -> None:
    job = train(service, "mhe", 0, 7.0)
    response = client.get("/v1/compare", params={"job": job, **params}, headers=headers)
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    [row] = csv.DictReader(io.StringIO(response.text))
    assert (row["variant"], row["n"], row["mean"], row["jobs"]) == ("mhe", "1", "7.0", job)


def test_a_table_comes_as_markdown(client: TestClient, service: Service) -> None:
    job = train(service, "mhe", 0, 7.0)
    response = client.get("/v1/compare", params={"job": job}, headers={"Accept": "text/markdown;q=0.9"})
    assert response.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "| mhe | 1 | 7.00 |" in response.text


@pytest.mark.parametrize(
    ("headers", "params"),
    [({}, {"format": "latex"}), ({"Accept": "text/x-tex"}, {})],
    ids=["by the parameter", "by the header"],
)
def test_a_table_comes_as_latex(
    client: TestClient, service: Service, headers: dict[str, str], params: dict[str, str]
) -> None:
    job = train(service, "mhe_sn", 0, 7.0)
    response = client.get("/v1/compare", params={"job": job, **params}, headers=headers)
    assert response.headers["content-type"] == "text/x-tex; charset=utf-8"
    assert r"mhe\_sn & 1 & $7.00$ & " in response.text


def test_the_configuration_of_each_job_is_read_once(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [train(service, "mhe", 0, 7.0), train(service, "mhe", 1, None, state=State.CANCELLED)]
    stored, found = RunConfig.stored, []
    monkeypatch.setattr(RunConfig, "stored", lambda document: (found.append(document), stored(document))[1])
    assert [each["job_id"] for each in compare(client, *jobs)["unfinished"]] == jobs[1:]
    assert len(found) == len(jobs)
