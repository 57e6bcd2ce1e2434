"""What the fault tests share: the compiled library, warm ranks, and the table of figures at the end."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import shim
from tests.faults.nursery import Nursery

FIGURES: list[str] = []


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """faults.c, compiled. Where that cannot be: a skip with the reason, or a failure when ACSAR_REQUIRE names anything."""
    reason = "the library is preloaded as Linux does it" if sys.platform != "linux" else ""
    if not reason:
        try:
            return shim.build(tmp_path_factory.mktemp("library"))
        except RuntimeError as error:
            reason = str(error)
    if os.environ.get("ACSAR_REQUIRE"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def nursery(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Nursery:
    """Where ranks come from."""
    return Nursery(library, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="session")
def figure() -> Callable[[str], None]:
    """Adds a line to the table of figures."""
    return FIGURES.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures."""
    if FIGURES:
        terminalreporter.section("fault injection")
        for line in FIGURES:
            terminalreporter.write_line(line)
