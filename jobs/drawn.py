"""Which files a run's figures were drawn from: figures.json beside them says so, and whether they are still what the files tell."""

from pathlib import Path
from typing import Any

from jobs.run_folder import read_json
from shards.manifest import sha256_of

RECORD = "figures.json"
KINDS = ("*/result.json", "probe/*/*.json", "fuse/*.json")  # small files that change with everything that is drawn


def sources(run: Path, against: Path | None = None) -> dict[str, str]:
    """sha256 by file: results, probes and fusions of the run, and of the one it is drawn against."""
    folders = [run] if against is None else [run, against]
    return {str(path): sha256_of(path) for folder in folders for kind in KINDS for path in sorted(folder.glob(kind))}


def read_record(run: Path) -> dict[str, Any]:
    """figures.json: job, drawn {kind: files}, left_out {kind: reason}, findings, sources. FileNotFoundError where nothing was drawn."""
    return dict(read_json(run / "figures" / RECORD))


def up_to_date(job: dict[str, Any]) -> bool:
    """Do the figures that this job (jobs.figures.Figures as JSON, its paths resolved) would draw stand in their folder?"""
    run, against = Path(job["run"]), Path(job["against"]) if job["against"] else None
    if not (run / "figures" / RECORD).is_file():
        return False
    found = read_record(run)
    return bool(found["job"] == job and found["sources"] == sources(run, against))
