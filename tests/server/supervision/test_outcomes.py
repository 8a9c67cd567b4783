"""The consequences of an ended attempt for its job, as a table."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import pytest

from server.executors.base import ExitRecord
from server.queue.states import Reason, State, legal
from server.supervision.outcomes import LONGEST_DELAY_SECONDS, Decision, Limits, decide
from tests.support.looped import looped

LIMITS = Limits(infrastructure=5, program=1, backoff_seconds=1.0)
ENDABLE = ("starting", "running", "pausing", "recovering", "cancelling")

COMPLETED = {"outcome": "completed", "result": {"status": "completed"}}
STOPPED = {"outcome": "stopped"}
LOST = "lost"  # no record


def failed(code: str, message: str = "the worker's message") -> dict[str, Any]:
    return {"outcome": "failed", "code": code, "message": message}


def job(state: str = "running", **values: Any) -> dict[str, Any]:
    reason = {"pausing": "user", "cancelling": "user", "recovering": "worker_lost"}.get(state)
    message = "abandoned" if state == "recovering" else None
    known = {"kind": "train", "state": state, "reason": reason, "message": message}
    return {**known, "infrastructure_used": 0, "program_used": 0, **values}


def record(cause: str = "exit", *, code: int | None = None, signal: int | None = None, outcome: Any = None) -> Any:
    return None if cause == LOST else ExitRecord(code, signal, cause, f"cause {cause}", outcome)  # type: ignore[arg-type]


# How it ended; then the next state and reason of a job that was running, pausing, recovering, cancelling. A job that
# was starting moves like a running one, unless a fifth entry says otherwise.
FAULT = "recovering:{}, paused:user, recovering:worker_lost, cancelled:user"
SAME = "{0}, {0}, {0}, {0}"
TABLE = [
    (record(code=0, outcome=COMPLETED), SAME.format("succeeded:None")),
    (record("stop", code=0, outcome=COMPLETED), SAME.format("succeeded:None")),
    (record("timeout", code=0, outcome=COMPLETED), SAME.format("succeeded:None")),
    (record("fenced", code=0, outcome=COMPLETED), SAME.format("succeeded:None")),
    (record("stop", code=75, outcome=STOPPED), FAULT.format("worker_killed")),
    (record("stop", signal=9), FAULT.format("worker_killed")),
    (record("stop", signal=15), FAULT.format("worker_killed")),
    (record("exit", code=75, outcome=STOPPED), FAULT.format("worker_killed")),
    (record("fenced", code=75, outcome=STOPPED), FAULT.format("worker_lost")),
    (record("fenced", signal=9), FAULT.format("worker_lost")),
    (record("timeout", code=75, outcome=STOPPED), SAME.format("failed:timeout")),
    (record("timeout", signal=9), SAME.format("failed:timeout")),
    (record("timeout", code=1, outcome=failed("diverged")), SAME.format("failed:timeout")),
    (record(code=1, outcome=failed("diverged")), SAME.format("failed:diverged")),
    (record("stop", code=1, outcome=failed("diverged")), SAME.format("failed:diverged")),
    (record(code=1, outcome=failed("out_of_memory")), SAME.format("failed:out_of_memory")),
    (record(code=1, outcome=failed("checkpoint_invalid")), SAME.format("failed:checkpoint_corrupt")),
    (record(code=1, outcome=failed("config_invalid")), SAME.format("failed:error")),
    (record(code=1, outcome=failed("data_invalid")), SAME.format("failed:error")),
    (record(code=1, outcome=failed("device_unavailable")), SAME.format("failed:error")),
    (record(code=1, outcome=failed("scorer_unavailable")), SAME.format("failed:error")),
    (record(code=1, outcome=failed("protocol_mismatch")), SAME.format("failed:error")),
    (
        record(code=1, outcome=failed("disk_full")),
        "paused:disk_full, paused:disk_full, paused:disk_full, cancelled:user",
    ),
    (record(code=1, outcome=failed("storage_failed")), FAULT.format("worker_lost")),
    (record(code=1, outcome=failed("run_dir_invalid")), FAULT.format("worker_lost")),
    (record(code=1, outcome=failed("error")), FAULT.format("error")),
    (record(code=1, outcome=failed("a code of some later worker")), FAULT.format("error")),
    (record(code=1), FAULT.format("error") + ", recovering:launch_failed"),
    (record(code=0), FAULT.format("error")),
    (record(code=1, outcome={"something": "else"}), FAULT.format("error") + ", recovering:launch_failed"),
    (record(signal=9), FAULT.format("worker_killed")),
    (record(signal=11), FAULT.format("worker_killed")),
    (record("launch_failed"), FAULT.format("launch_failed")),
    (record("unwritable"), FAULT.format("worker_lost")),
    (record(LOST), FAULT.format("worker_lost")),
]


def cases() -> Iterator[tuple[str, ExitRecord | None, str]]:
    """Every state in which an attempt can end, every end, and the state that follows."""
    for ended, row in TABLE:
        running, pausing, recovering, cancelling, *starting = row.split(", ")
        yield from zip(ENDABLE, repeat(ended), (*(starting or [running]), running, pausing, recovering, cancelling))


@looped(("state", "ended", "expected"), cases())
def test_every_end_leads_to_one_state(state: str, ended: ExitRecord | None, expected: str) -> None:
    decision = decide(job(state), ended, LIMITS)
    assert f"{decision.state}:{decision.reason}" == expected
    assert decision.exit_code == (ended.exit_code if ended else None)
    abandoned_again = state == "recovering" and decision.state is State.RECOVERING
    assert abandoned_again or legal(State(state), decision.state)


@looped(("state", "ended", "expected"), cases())
def test_only_a_retry_counts_against_a_limit(state: str, ended: Any, expected: str) -> None:
    decision = decide(job(state), ended, LIMITS)
    used = decision.infrastructure_used + decision.program_used
    assert used == (1 if expected.startswith("recovering") else 0)
    assert decision.program_used == (1 if expected == "recovering:error" else 0)


class TestMessages:
    def test_the_workers_message_is_kept(self) -> None:
        assert decide(job(), record(code=1, outcome=failed("diverged", "at step 3")), LIMITS).message == "at step 3"
        assert decide(job(), record(code=1, outcome=failed("error", "KeyError: 3")), LIMITS).message == "KeyError: 3"

    def test_a_kill_names_the_signal_and_its_usual_cause(self) -> None:
        message = decide(job(), record(signal=9), LIMITS).message
        assert message is not None and "SIGKILL" in message and "out-of-memory killer" in message

    def test_only_sigkill_is_attributed_to_memory(self) -> None:
        message = decide(job(), record(signal=11), LIMITS).message
        assert message is not None and "SIGSEGV" in message and "memory" not in message

    def test_a_signal_without_a_name_is_a_number(self) -> None:
        assert decide(job(), record(signal=250), LIMITS).message == "the worker was killed by signal 250"

    def test_a_pause_that_saved_keeps_the_reason_of_its_request(self) -> None:
        pausing = job("pausing", reason="disk_full", message="1 MiB free")
        decision = decide(pausing, record("stop", code=75, outcome=STOPPED), LIMITS)
        assert (decision.state, decision.reason, decision.message) == ("paused", "disk_full", "1 MiB free")

    def test_a_pause_that_ended_in_a_kill_says_that_nothing_was_saved(self) -> None:
        message = decide(job("pausing"), record("stop", signal=9), LIMITS).message
        assert message == "the worker did not save (cause stop); its earlier checkpoints remain"

    def test_an_infrastructure_fault_during_a_pause_is_reported(self) -> None:
        message = decide(job("pausing"), record(LOST), LIMITS).message
        assert message == "the supervisor and the worker disappeared without an exit record"

    def test_the_reason_for_abandoning_an_attempt_outlasts_how_it_was_killed(self) -> None:
        decision = decide(job("recovering", message="no progress"), record("stop", signal=9), LIMITS)
        assert (decision.reason, decision.message) == ("worker_lost", "no progress")

    def test_every_failure_has_a_message(self) -> None:
        outcomes = [failed(code, "") for code in ("diverged", "disk_full", "storage_failed", "error")]
        silent = [
            record(code=3),
            ExitRecord(None, None, "timeout"),
            *(record(code=1, outcome=each) for each in outcomes),
        ]
        assert all(decide(job(), ended, LIMITS).message for ended in silent)


class TestRetryLimits:
    def test_infrastructure_retries_end_in_a_failure_that_names_the_last_cause(self) -> None:
        used, states = 0, []
        for _ in range(6):
            decision = decide(job(infrastructure_used=used), record(signal=9), LIMITS)
            used = decision.infrastructure_used
            states.append(decision.state)
        assert states == [State.RECOVERING] * 5 + [State.FAILED]
        assert decision.reason is Reason.RETRIES_EXHAUSTED
        assert decision.message is not None
        assert decision.message.startswith(
            "retried 5 times; the last attempt failed with worker_killed: the worker was"
        )

    def test_program_retries_end_in_the_programs_own_error(self) -> None:
        decision = decide(job(program_used=1), record(code=1, outcome=failed("error", "KeyError: 3")), LIMITS)
        assert (decision.state, decision.reason, decision.message) == ("failed", "error", "KeyError: 3")
        assert decision.program_used == 1

    def test_the_two_limits_are_independent(self) -> None:
        no_program, no_machine = job(program_used=1), job(infrastructure_used=5)
        assert decide(no_program, record(signal=9), LIMITS).state is State.RECOVERING
        assert decide(no_machine, record(code=1), LIMITS).state is State.RECOVERING

    @pytest.mark.parametrize("ended", [record(signal=9), record(code=1), record(LOST)])
    def test_without_retries_the_first_fault_is_final(self, ended: Any) -> None:
        assert decide(job(), ended, Limits(0, 0, 1.0)).state is State.FAILED

    def test_a_requested_stop_succeeds_even_without_retries_left(self) -> None:
        for state, expected in (("pausing", "paused"), ("cancelling", "cancelled")):
            spent = job(state, infrastructure_used=5, program_used=1)
            assert decide(spent, record(LOST), LIMITS).state == expected
            assert decide(spent, record(code=1), LIMITS).state == expected

    def test_a_crash_of_an_abandoned_attempt_is_an_infrastructure_fault(self) -> None:
        decision = decide(job("recovering", program_used=1), record("stop", code=1, outcome=failed("error")), LIMITS)
        assert (decision.state, decision.infrastructure_used, decision.program_used) == ("recovering", 1, 1)


class TestDelays:
    def delay(self, machine: int, program: int, limits: Limits) -> Decision:
        return decide(job(infrastructure_used=machine, program_used=program), record(signal=9), limits)

    def test_the_delay_doubles_up_to_a_minute(self) -> None:
        generous = Limits(10_000, 10_000, 1.0)
        waits = [self.delay(used, 0, generous).delay_seconds for used in range(9)]
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60] and LONGEST_DELAY_SECONDS == 60
        assert self.delay(9_000, 0, generous).delay_seconds == 60

    def test_both_kinds_of_faults_lengthen_the_delay(self) -> None:
        assert self.delay(1, 1, LIMITS).delay_seconds == 4

    def test_zero_backoff_is_no_delay(self) -> None:
        assert self.delay(3, 0, Limits(5, 1, 0.0)).delay_seconds == 0


class TestResults:
    def test_the_result_of_completed_work_is_kept(self) -> None:
        assert decide(job(), record(code=0, outcome=COMPLETED), LIMITS).result == {"status": "completed"}

    def test_stopped_and_failed_work_has_no_result(self) -> None:
        outcome = {**failed("diverged"), "result": {"status": "diverged"}}
        assert decide(job(), record(code=1, outcome=outcome), LIMITS).result is None
        assert decide(job("pausing"), record("stop", code=75, outcome={**STOPPED, "result": {}}), LIMITS).result is None
