"""First line of every script: are the packages there, and is the environment a safe one?"""

import importlib.util
import os
import sys
from pathlib import Path

NEEDED = ("torch", "deepspeed", "tyro", "webdataset", "mlflow", "submitit", "rich")
SAFE_ENVIRONMENT = {
    "WDS_SECURE": "1",  # webdataset: no shell in addresses, no pickle in samples
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "passive",  # threads that spin at barriers cost a shared machine more than they gain
}


def prepare() -> None:
    """Set what must be set before any heavy import; exit with code 2 and the way out when packages are missing."""
    for name, value in SAFE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        root = Path(__file__).resolve().parents[1]
        print(
            f"{sys.executable} lacks {', '.join(missing)}: run `make -C {root} install`, then `source {root}/.venv/bin/activate`",
            file=sys.stderr,
        )
        sys.exit(2)
