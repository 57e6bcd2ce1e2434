"""Snapshots: complete or absent, made once, and what a job imports from one is not what was edited since."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import launch.snapshot
from jobs import InputError
from launch.snapshot import PACKAGES, ROOT, snapshot


def tree(root: Path) -> Path:
    """A small source tree with what must be copied and what must not."""
    for package in PACKAGES:
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").write_text(f'"""{package}"""\n')
    (root / "launch" / "batch.sh").write_text("begin() { :; }\n")
    (root / "launch" / "unit.py").write_text("VALUE = 'before'\n")
    (root / "shards" / "deep").mkdir()
    (root / "shards" / "deep" / "missing.txt").write_text("S001\n")
    (root / "shards" / "__pycache__").mkdir()
    for leftover in ("shards/__pycache__/a.pyc", "shards/.a.py.swp", "jobs/a.py~", "jobs/a.tmp", "notes.txt"):
        (root / leftover).write_text("x")
    return root


@pytest.fixture(autouse=True)
def commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same all along, whoever commits while tests run."""
    monkeypatch.setattr(launch.snapshot, "commit", lambda: "0123abc+changes")


def said(folder: Path, code: str, **environment: str) -> str:
    """What Python prints, started in the repository as a job is: from the snapshot alone."""
    variables = {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, check=True, capture_output=True, text=True).stdout.strip()


def test_what_is_copied(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "runs", tree(tmp_path / "code"))
    assert folder.parent == tmp_path / "runs" / ".code"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {f"{package}/__init__.py" for package in PACKAGES} | {"launch/batch.sh", "launch/unit.py", "shards/deep/missing.txt"}
    assert names == expected | {"snapshot.json"}
    facts = json.loads((folder / "snapshot.json").read_text())
    assert facts["hash"] == folder.name
    assert len(folder.name) == 16
    assert set(facts["files"]) == expected
    assert all(stat.S_IMODE((folder / name).stat().st_mode) == 0o444 for name in expected)


def test_made_once_and_anew_after_an_edit(tmp_path: Path) -> None:
    code = tree(tmp_path / "code")
    first = snapshot(tmp_path / "runs", code)
    inode = (first / "launch" / "unit.py").stat().st_ino
    assert snapshot(tmp_path / "runs", code) == first
    assert (first / "launch" / "unit.py").stat().st_ino == inode
    (code / "launch" / "unit.py").write_text("VALUE = 'after'\n")
    second = snapshot(tmp_path / "runs", code)
    assert second != first
    show = "import launch.unit; print(launch.unit.VALUE, launch.unit.__file__)"
    assert said(first, show) == f"before {first}/launch/unit.py"
    assert said(second, show) == f"after {second}/launch/unit.py"
    assert len(list((tmp_path / "runs" / ".code").iterdir())) == 2


def test_this_code_runs_from_its_snapshot(tmp_path: Path) -> None:
    """Also where the packages are installed in place, as `make install` does."""
    folder = snapshot(tmp_path)
    code = """
import importlib, json
from jobs.environment import commit
from shards.facts import missing
names = ["launch.unit", "launch.profiles", "jobs.pretrain", "jobs.worker", "shards.pack", "acsar.ac_sar"]
print(json.dumps([[importlib.import_module(name).__file__ for name in names], commit(), len(missing("ntu60"))]))
"""
    files, at, missing = json.loads(said(folder, code, CUDA_VISIBLE_DEVICES=""))
    assert all(file.startswith(f"{folder}/") for file in files)
    assert at == json.loads((folder / "snapshot.json").read_text())["commit"] == "0123abc+changes"
    assert missing == 302


def test_many_at_once(tmp_path: Path) -> None:
    code = tree(tmp_path / "code")
    runs = tmp_path / "runs"
    script = f"import launch.snapshot as s; s.commit = str; print(s.snapshot(s.Path({str(runs)!r}), s.Path({str(code)!r})))"
    words = [sys.executable, "-c", script]
    running = [subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert folders == {str(path) for path in (runs / ".code").iterdir()}
    assert len(folders) == 1


def test_made_by_another_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tree(tmp_path / "code")
    write = launch.snapshot.write_json

    def late(path: Path, value: object) -> None:
        monkeypatch.setattr(launch.snapshot, "write_json", write)
        snapshot(tmp_path / "runs", code)
        write(path, value)

    monkeypatch.setattr(launch.snapshot, "write_json", late)
    folder = snapshot(tmp_path / "runs", code)
    assert (folder / "snapshot.json").is_file()
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["launch/unit.py", "snapshot.json"])
def test_a_damaged_copy_is_made_again(name: str, tmp_path: Path) -> None:
    code = tree(tmp_path / "code")
    folder = snapshot(tmp_path / "runs", code)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    assert snapshot(tmp_path / "runs", code) == folder
    assert (folder / name).read_bytes() == content
    assert list(folder.parent.iterdir()) == [folder]


def test_absent_unless_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(launch.snapshot, "write_json", full)
    with pytest.raises(InputError, match=r"cannot be copied to .*No space left on device; --runs names another folder"):
        snapshot(tmp_path / "runs", tree(tmp_path / "code"))
    assert list((tmp_path / "runs" / ".code").iterdir()) == []


def test_runs_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(InputError, match="Not a directory"):
        snapshot(tmp_path / "runs", tree(tmp_path / "code"))


def test_uncommitted_changes_are_kept(tmp_path: Path) -> None:
    code = tree(tmp_path / "code")
    git = ["git", "-c", "user.name=ann", "-c", "user.email=ann@example.org"]
    for words in (["init", "-q"], ["add", *PACKAGES], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=code, check=True)
    assert not (snapshot(tmp_path / "runs", code) / "changes.diff").exists()
    (code / "launch" / "unit.py").write_text("VALUE = 'after'\n")
    (code / "notes.txt").write_text("not code")
    changes = (snapshot(tmp_path / "runs", code) / "changes.diff").read_text()
    assert "-VALUE = 'before'\n+VALUE = 'after'" in changes
    assert "notes" not in changes
