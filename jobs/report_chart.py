"""The chart of a report, inline SVG without a script: methods by streams, seeds' deviation, intervals, reference points."""

import html
import math
from collections.abc import Sequence

from jobs import published
from jobs.report_tables import NAMES, Collection, probed, subset
from jobs.results import Setting
from jobs.tables import Cell

WIDTH, LEFT, RIGHT, LINE, GAP, HEAD = 600, 76, 48, 20, 12, 16
MARKS = {"random": "random encoder", "raw": "raw clips"}
COLOURS = 6  # classes m0 ... m5 of the page's style


def chart(runs: Collection, setting: Setting) -> str:
    """One setting: a line per stream (and their widest fusion) and method; "" where nothing was probed."""
    labels = [label for label in runs.rows if runs.seeds(label, setting)]
    fused = [name for label in labels for reached in runs.seeds(label, setting).values() for name in reached.fused]
    names = [name for name in published.SUBSETS if name in NAMES or name == max(fused, key=len, default="")]
    lines = [
        (name, label, cell)
        for name in names
        for label in labels
        if (cell := runs.cell(label, setting, subset(name))) and cell.value is not None
    ]
    if not lines:
        return ""
    marks = {
        (name, label, kind): cell.value
        for name, label, _ in lines
        if name in NAMES
        for kind in MARKS
        if (cell := runs.cell(label, setting, probed(NAMES[name], f"{kind}_linear"))) and cell.value is not None
    }
    ends = [end for _, _, cell in lines for end in (cell.value, *(cell.interval or ())) if end is not None]
    low, high = 10 * math.floor(min([*ends, *marks.values()]) / 10), 10 * math.ceil(max([*ends, *marks.values()]) / 10)
    scale = _Scale(low, max(high, low + 10))
    body, y, previous = [], HEAD, ""
    for name, label, cell in lines:
        if name != previous:
            y += GAP if previous else 0
            body.append(f'<text class="stream" x="0" y="{y + 15}">{html.escape(NAMES.get(name, name))}</text>')
        previous = name
        found = [(kind, marks[name, label, kind]) for kind in MARKS if (name, label, kind) in marks]
        body.append(_line(scale, y + LINE / 2, labels.index(label), label, cell, found))
        y += LINE
    grid = "".join(
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD - 4}" y2="{y}"/><text class="tick" x="{x:.1f}" y="{y + 16}">{value}</text>'
        for value in scale.ticks
        for x in [scale(value)]
    )
    title = f"{setting.name}: linear probe, top-1 in %"
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}</figcaption>{_legend(labels)}<div class="scroll">'
        f'<svg viewBox="0 0 {WIDTH} {y + 24}" role="img" aria-label="{html.escape(title)}">{grid}{"".join(body)}</svg></div>'
        '<p class="note">Dot: mean over seeds. Thick: ± standard deviation over seeds. Thin: 95 % interval of one seed. '
        "Diamond: the same network untrained. Bar: the clips without any network. Lines in the order of the names above.</p></figure>\n"
    )


class _Scale:
    """Percent to pixels."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        step = 5 if high - low <= 30 else 10 if high - low <= 60 else 20
        self.ticks = list(range(low, high + 1, step))

    def __call__(self, value: float) -> float:
        return LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)


def _line(scale: _Scale, y: float, place: int, label: str, cell: Cell, marks: Sequence[tuple[str, float]]) -> str:
    assert cell.value is not None
    x, parts = scale(cell.value), []
    if cell.interval is not None:
        parts.append(f'<line class="thin" x1="{scale(cell.interval[0]):.1f}" x2="{scale(cell.interval[1]):.1f}" y1="{y}" y2="{y}"/>')
    if cell.deviation is not None:
        ends = scale(cell.value - cell.deviation), scale(cell.value + cell.deviation)
        parts.append(f'<line class="thick" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}"/>')
    parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="5"/>')
    for kind, value in marks:
        at = scale(value)
        shape = f"M{at:.1f} {y - 6}l5 6l-5 6l-5 -6z" if kind == "random" else f"M{at - 1.5:.1f} {y - 8}h3v16h-3z"
        parts.append(f'<path class="{kind}" d="{shape}"><title>{MARKS[kind]} {value:.1f}</title></path>')
    number = f'<text class="value" x="{WIDTH - RIGHT + 8}" y="{y + 4}">{cell.value:.1f}</text>'
    return f'<g class="m{place % COLOURS}"><title>{html.escape(label)} {cell.value:.1f}</title>{"".join(parts)}{number}</g>'


def _legend(labels: Sequence[str]) -> str:
    """Methods in the order of their lines."""
    items = "".join(f'<li class="m{place % COLOURS}">{html.escape(label)}</li>' for place, label in enumerate(labels))
    return f'<ul class="legend">{items}</ul>'
