"""What all figures share: colours that colour-blind readers tell apart, axes without clutter, names that fit, files that are whole."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jobs.run_folder import write_bytes

COLOURS = {"joint": "#0072b2", "bone": "#d55e00", "motion": "#009e73"}  # Okabe and Ito: told apart by colour-blind readers
FUSED = "#542788"
DOTS = 130  # per inch
NAMED = 30  # classes that still have room for names on an axis; more are numbered


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all; returns the path."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS)
    write_bytes(path, buffer.getvalue())
    return path


def dress(axis: Any, x: str, y: str, title: str) -> None:
    """Names of the axes, a title at the left, faint lines across, no box."""
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


def short(name: str, most: int = 26) -> str:
    """A class name that fits beside an axis; what is left out is in the middle: labels of several columns differ at their ends."""
    tail = most // 3
    return name if len(name) <= most else f"{name[: most - tail - 1].rstrip()}…{name[-tail:].lstrip()}"


def numbered(names: Sequence[str]) -> list[str]:
    """Names with their class numbers in front where they are not numbers themselves: "7 throw"."""
    return [name if name == str(i) else f"{i} {name}" for i, name in enumerate(names)]
