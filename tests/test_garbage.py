"""The garbage collector is off in a block, and as before after it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tmsgd_bench.garbage import uncollected


@pytest.fixture(autouse=True)
def own_collector() -> Iterator[None]:
    """What a test does to the collector ends with the test."""
    enabled = gc.isenabled()
    yield
    (gc.enable if enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_off_in_the_block_and_then_as_before(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() is enabled


def test_an_error_in_the_block_leaves_the_collector_on() -> None:
    gc.enable()
    with pytest.raises(ImportError), uncollected():
        import no_such_module  # noqa: F401
    assert gc.isenabled()
