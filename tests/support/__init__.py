"""What tests share besides fixtures: classes, programs and checks, imported by name."""

import pytest

# Their assertions are to show values, as those of tests do.
pytest.register_assert_rewrite("tests.support.audit", "tests.support.server_process", "tests.support.world")
