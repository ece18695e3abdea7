import pytest

# What the tests share asserts, too, and should say as much when it fails.
pytest.register_assert_rewrite("tests.acceptance.scene", "tests.acceptance.outside")
