"""What every test shares: where real data lies, what must not be missing, and how many tests of each mark ran."""

import os
from collections import Counter
from pathlib import Path

import pytest

MARKS = ("golden", "realdata", "distributed", "slurm", "cluster")
SETS = ("uiprmd/uiprmd_kinect_ntu25.npz", "cmu_clips/cmu_clips_ntu25.npz", "irds_subset/irds_subset_ntu25.npz")

for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACSAR_RUNS", "MLFLOW_TRACKING_URI"):
    os.environ.pop(variable, None)
for variable in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))]:
    del os.environ[variable]
# no test reaches a Slurm of this machine unless it asks for a box; a file that is missing would be waited for, a minute each time
os.environ["SLURM_CONF"] = os.devnull
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WDS_SECURE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real motion capture. Absent: a skip with the way to get it, or a failure under ACSAR_REQUIRE=realdata."""
    said = os.environ.get("ACSAR_REAL_DATA", "")
    missing = [name for name in SETS if not said or not (Path(said) / name).is_file()]
    if not missing:
        return Path(said)
    reason = f"ACSAR_REAL_DATA={said!r} lacks {', '.join(missing)}; set it to a folder that holds these exchange files"
    if "realdata" in os.environ.get("ACSAR_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


class MarkCount:
    """Counts what ran by mark, so that a green run that tested nothing is seen. Marks come with reports, from worker processes too."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {mark: Counter() for mark in MARKS}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            item.user_properties += [("mark", mark) for mark in MARKS if item.get_closest_marker(mark)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.when == "setup" and not report.passed):
            for name, value in report.user_properties:
                if name == "mark":
                    self.outcomes[str(value)][report.outcome] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for mark, seen in self.outcomes.items():
            counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(seen.items())) or "none ran"
            terminalreporter.write_line(f"mark {mark}: {counts}")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the counter."""
    config.pluginmanager.register(MarkCount())
