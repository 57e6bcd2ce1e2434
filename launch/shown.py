"""Units for people: a table's rows, durations."""

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from launch.view import MENDABLE, UnitView

COLOURS = {"running": "green", "finished": "bold green", "requeued": "yellow", "stopped": "yellow"} | dict.fromkeys(MENDABLE, "red")


def duration(seconds: float) -> str:
    """40 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def table(views: Iterable[UnitView], title: str | None = None) -> Table:
    """One row per unit, for terminals."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("", "", "state", "step", "clips/s", "left", "where", "what"):
        drawn.add_column(name, overflow="fold", justify="right" if name in ("step", "clips/s", "left") else "left")
    previous = ""
    for view in views:
        style = COLOURS.get(view.state, "")
        cells = cells_of(view)
        drawn.add_row(
            view.name if view.name != previous else "", view.key, f"[{style}]{view.state}[/]" if style else view.state, *map(escape, cells)
        )
        previous = view.name
    return drawn


def line_of(view: UnitView) -> str:
    """One line about a unit, for logs and pipes."""
    step, rate, left, where, what = cells_of(view)
    told = [
        step if view.counted else _in_steps(step),
        f"{rate} {view.counted or 'clips'}/s" if rate else "",
        f"{left} left" if left else "",
        where,
        what,
    ]
    return f"{view.name} {view.key:<6} {view.state:<9} " + "; ".join(word for word in told if word)


def details(view: UnitView) -> Text:
    """All about one unit."""
    step, rate, left, where, _ = cells_of(view)
    share = f" ({view.step / view.steps:.0%})" if view.step is not None and view.steps else ""
    done = step.replace(f" {view.counted}", f" {view.counted}{share}") if view.counted else _in_steps(step, share)
    loss = f"loss {view.loss:.3f}" if view.loss is not None else ""
    head = [done, loss, f"{rate} {view.counted or 'clips'}/s" if rate else "", f"about {left} left" if left else ""]
    several = sum(view.parts.values()) > 1
    lines = [
        f"{view.key:<6}  {view.state:<9}  " + ", ".join(word for word in head if word),
        view.why,
        "parts: " + ", ".join(f"{number} {state}" for state, number in view.parts.items()) if several else "",
        ", ".join(word for word in (where, *counts(view)) if word),
        f"newest checkpoint {view.checkpoint}, {view.behind} steps ago" if view.checkpoint else "",
        *view.remarks,
        f"last end: {view.last_end}" if view.last_end and view.last_end not in view.why else "",
        f"first error: {view.error}" if view.error and view.error not in view.why else "",
        f"next: {view.next}" if view.next else "",
    ]
    text = Text("\n        ".join(line for line in lines if line))
    text.highlight_words([view.state], COLOURS.get(view.state, ""))
    return text


def counts(view: UnitView) -> list[str]:
    """How often it was started, in words."""
    return [
        f"attempt {view.attempts}" if view.attempts else "",
        f"restarted {view.restarts} times by Slurm" if view.restarts else "",
        f"submitted {len(view.history) // max(1, len(view.jobs)) + 1} times" if view.history else "",
    ]


def cells_of(view: UnitView) -> tuple[str, str, str, str, str]:
    """step, clips/s, time left, where, what: as words, "" where nothing is known."""
    step = "" if view.step is None else f"{view.step}/{view.steps}" if view.steps else str(view.step)
    if view.counted:
        step += f" {view.counted}"
    if sum(view.parts.values()) > 1:
        step = ", ".join([*([step] if view.counted else []), f"{view.parts.get('finished', 0)}/{sum(view.parts.values())} parts"])
    rate = f"{view.samples_per_s:.1f}" if view.samples_per_s and view.state == "running" else ""
    left = duration(view.left_s) if view.left_s is not None else ""
    what = "; ".join([*view.remarks, *([view.why] if view.why else [])])
    return step, rate, left, ", ".join([*(f"job {job}" for job in view.jobs), *_short(view.hosts)]), what


def _in_steps(step: str, share: str = "") -> str:
    """Steps of training in words; of an array its parts, as they are."""
    return f"step {step}{share}" if step.replace("/", "").isdigit() else step


def _short(hosts: Sequence[str]) -> list[str]:
    return list(hosts) if len(hosts) <= 4 else [*hosts[:3], f"{len(hosts) - 3} more"]
