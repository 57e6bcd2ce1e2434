"""What tests against a real Slurm share: a box that is up once for all of them, clean for each, and whose logs explain a failure."""

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.clips import packed_clips
from tests.slurm import box as boxes
from tests.slurm.box import Box

if TYPE_CHECKING:
    from tests.slurm.small_run import SmallRun

ROOT = Path(__file__).resolve().parents[2]
CLUSTER_TIMEOUT = 900  # seconds for one test: a dead node alone takes half a minute to be noticed


def launch(script: str, *words: str | Path, timeout: float = 300, cwd: Path = ROOT, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Run launch/SCRIPT.py as a user of the login node would."""
    command = [sys.executable, str(ROOT / "launch" / f"{script}.py"), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env={**os.environ, **changes})


def wait_for(condition: Callable[[], object], seconds: float, every: float = 0.2) -> None:
    """Wait until the condition is true. Fails the test when it is not after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds:.0f} s: {getattr(condition, '__doc__', None) or condition}")
        time.sleep(every)


def new_box(**options: object) -> Box:
    """A box in a folder of its own, up; whoever asks takes it down. It does not outlive this process for long."""
    root = Path(tempfile.mkdtemp(prefix="acsar-box-", dir=tempfile.gettempdir()))
    return Box(root, owned=True, **options).up()  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def slurm() -> None:
    """Slurm can be had. Else: a skip with the way to get it; under ACSAR_REQUIRE=slurm it is installed, or the test fails."""
    required = "slurm" in os.environ.get("ACSAR_REQUIRE", "").split(",")
    try:
        if required:
            boxes.install()
    except boxes.BoxError as error:
        pytest.fail(str(error))
    if reason := boxes.missing():
        (pytest.fail if required else pytest.skip)(f"{reason}; make cluster (as root) installs what it takes, or {boxes.ENABLE}")
    boxes.sweep()


@pytest.fixture(scope="session")
def shared_box(slurm: None) -> Iterator[Box]:
    """4 nodes of 4 processors, accounting, 40 s of grace: one for all tests."""
    up = new_box()
    yield up
    up.down()


@pytest.fixture
def box(shared_box: Box, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """The shared box with idle nodes and no jobs; Slurm's commands, and what this test starts, talk to it."""
    monkeypatch.setenv("SLURM_CONF", str(shared_box.conf))
    yield shared_box
    _clean(shared_box)


def _clean(shared_box: Box) -> None:
    """Idle nodes and no jobs again; a box that does not come to rest is made anew."""
    try:
        shared_box.reset(patience=60)
    except (boxes.BoxError, subprocess.SubprocessError) as error:
        # a job that is cancelled in the moment of its start can keep a node "completing" for minutes: Slurm's own race, not the test's
        print(f"the box is made anew: {error}")
        shared_box.down()
        shared_box.up()


@pytest.fixture
def bare(slurm: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A box of one node without accounting."""
    up = new_box(nodes=1, accounting=False)
    monkeypatch.setenv("SLURM_CONF", str(up.conf))
    yield up
    up.down()


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 clips, packed: see tests/clips.py."""
    return packed_clips(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="session")
def undisturbed(shared_box: Box, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> "Callable[[int], SmallRun]":
    """The small run on so many nodes that nobody disturbed, trained when it is first asked for."""
    from tests.slurm.small_run import SmallRun

    @functools.cache
    def trained(nodes: int) -> SmallRun:
        run = SmallRun.submitted(shared_box, tmp_path_factory.mktemp("undisturbed"), packed, nodes)
        run.check_whole()
        return run

    return trained


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that takes a box needs Slurm; all but the smoke test belong to `make test-cluster`."""
    for item in items:
        if {"box", "slurm"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("slurm")
            if item.path.name != "test_smoke.py":
                item.add_marker("cluster")
                if item.get_closest_marker("timeout") is None:
                    item.add_marker(pytest.mark.timeout(CLUSTER_TIMEOUT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the daemons said last."""
    report = yield
    up = getattr(item, "funcargs", {}).get("box")
    if report.failed and isinstance(up, Box):
        report.sections.append(("Slurm's logs", up.logs()))
    return report
