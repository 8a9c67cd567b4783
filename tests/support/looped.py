"""Quick cases by the dozen in one test: to collect and report each apart takes longer than to run it."""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

Test = Callable[..., None]


def looped(names: str | Sequence[str], cases: Iterable[Any]) -> Callable[[Test], Test]:
    """`pytest.mark.parametrize` as a loop in one test, which fails with every case that fails.

    The cases share the test's fixtures, so they must leave these as they were.
    """
    several = not isinstance(names, str)
    listed = [dict(zip(names, case, strict=True)) if several else {str(names): case} for case in cases]
    assert listed

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(*arguments: Any, **fixtures: Any) -> None:
            failures: list[BaseException] = []
            for case in listed:
                try:
                    test(*arguments, **fixtures, **case)
                except (Exception, pytest.fail.Exception, BaseExceptionGroup) as failure:
                    failure.add_note("case: " + ", ".join(f"{name}={value!r}" for name, value in case.items()))
                    failures.append(failure)
            if failures:
                raise BaseExceptionGroup(f"{len(failures)} of {len(listed)} cases fail", failures)

        signature = inspect.signature(test)
        rest = [each for name, each in signature.parameters.items() if name not in listed[0]]
        run.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
        return run

    return decorate
