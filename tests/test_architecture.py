"""Import directions between the packages, and one door per heavy library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "acsar": ("acsar",),
    "shards": ("shards", "acsar.skeleton"),
    "jobs": ("jobs", "shards", "acsar"),
    "launch": ("launch", "jobs"),
}
DOORS = {
    "submitit": ("launch/",),
    "deepspeed": ("jobs/engine.py",),
    "mlflow": ("jobs/tracking.py",),
    "webdataset": ("shards/",),
    "ultralytics": ("jobs/caption",),
    "transformers": ("jobs/caption",),
    "open_clip": ("jobs/encode_text.py",),
    "onnx": ("jobs/export.py",),
    "onnxruntime": ("jobs/export.py",),
    "av": ("jobs/caption", "shards/render.py"),
    "matplotlib": ("jobs/figure",),
    "sklearn": ("jobs/",),
    "tyro": ("launch/",),
    "rich": ("launch/",),
}
FILES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        if name.split(".")[0] in ALLOWED:
            inside = any(name == allowed or name.startswith(allowed + ".") for allowed in ALLOWED[package])
            parent = any(allowed.startswith(name + ".") for allowed in ALLOWED[package])
            assert inside or (parent and "." not in name and name != package), f"{path}: {package} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_have_one_door(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    for name in imports(path):
        doors = DOORS.get(name.split(".")[0])
        assert doors is None or relative.startswith(doors), f"{relative}: {name} belongs in {' or '.join(doors or ())}"


def test_packing_and_tracking_need_no_torch() -> None:
    check = "import sys, shards, jobs.tracking; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


def test_a_rank_starts_without_mlflow_which_deepspeed_would_import() -> None:
    check = "import sys; from jobs import engine\nwith engine.join(): sys.exit('mlflow' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
    after = "from jobs import engine\nwith engine.join(): import mlflow; mlflow.start_run"
    assert subprocess.run([sys.executable, "-c", after], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


def test_a_wrong_import_is_caught(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from jobs.tracking import sync\n    import mlflow\n")
    assert set(imports(wrong)) == {"jobs.tracking", "jobs.tracking.sync", "mlflow"}


def test_every_file_says_what_it_is() -> None:
    for path in FILES:
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc and len(doc) > 8, f"{path} has no first line that says what it is"
