"""What several test files use: plain functions and classes; fixtures stand in conftest.py."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite(  # so that a failed assertion shows its values
    *(f"{__name__}.{path.stem}" for path in Path(__file__).parent.glob("[a-z]*.py"))
)
