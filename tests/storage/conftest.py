from __future__ import annotations

import pytest

# The conformance suite is imported by the tests of each backend; without this its asserts would not show their values.
pytest.register_assert_rewrite("tests.storage.conformance")
