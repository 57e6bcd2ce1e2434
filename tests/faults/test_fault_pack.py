"""The packer killed at every operation: readers see the set whole or not at all, and the same command makes the same bytes."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shards import manifest
from shards.pack import pack
from shards.sources import open_source
from shards.stream import PackedSet
from shards.synthetic import write_synthetic
from tests.faults.nursery import Nursery
from tests.faults.shim import Fault, faults, kinds, read_log

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 raw clips."""
    folder = tmp_path_factory.mktemp("raw") / "clips"
    write_synthetic(folder, subjects=2, actions=4, frames=(20, 24))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def seen(out: Path) -> str:
    """The content id that a reader sees, its every byte checked; "" when nothing is there."""
    if not out.exists():
        return ""
    packed = PackedSet.open(out)
    packed.verify()
    return packed.content_id


@pytest.mark.parametrize("mode", ["incremental", "overwrite"])
def test_killed_at_every_operation(nursery: Nursery, raw: Path, tmp_path: Path, mode: str, figure: Callable[[str], None]) -> None:
    """incremental: into an empty place; overwrite: over another set."""
    began = time.perf_counter()
    source, log = open_source(raw), tmp_path / "log"
    pack(source, tmp_path / "whole", per_shard=9)
    pack(source, tmp_path / "old", per_shard=5, normalise="none")
    whole, old = tree(tmp_path / "whole"), manifest.read(tmp_path / "old")["content_id"]
    new = manifest.read(tmp_path / "whole")["content_id"]
    place = tmp_path / "place"

    def killed(fault: Fault) -> list[int]:
        shutil.rmtree(place, ignore_errors=True)
        log.unlink(missing_ok=True)
        place.mkdir()
        if mode == "overwrite":
            shutil.copytree(tmp_path / "old", place / "set")
        return nursery.run("packing", 1, raw, place / "set", mode, fault, log)

    assert killed(Fault()) == [0], nursery.said()
    assert tree(place) == {f"set/{name}": content for name, content in whole.items()}
    operations = read_log(log)
    assert len(operations) >= 30, operations
    chosen = list(faults([operations], thin=True))
    for fault, operation in chosen:
        where = f"{fault.harm} operation {fault.operation}: {operation}"
        assert killed(fault) == [-9], where
        assert seen(place / "set") in ({"", new} if mode == "incremental" else {"", old, new}), where
        pack(source, place / "set", per_shard=9, mode=mode)
        assert tree(place) == {f"set/{name}": content for name, content in whole.items()}, where
        assert {path.name for path in place.iterdir()} == {"set"}, where
    figure(f"pack, {mode}: n = {len(operations)} ({kinds(operations)})")
    figure(f"pack, {mode}: {len(chosen)} kills, the same bytes each time, {time.perf_counter() - began:.0f} s")
