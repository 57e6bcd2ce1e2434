"""Tables of results as data, and as Markdown, CSV, LaTeX, HTML or plain text: the same numbers, digits and words in each."""

import csv
import html
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

DASH = "–"  # a cell that nobody measured


@dataclass(frozen=True)
class Cell:
    """One number of a table, in the table's unit (percent, as a rule). Without a value its note stands in the cell."""

    value: float | None = None
    deviation: float | None = None  # over seeds, n - 1 below
    interval: tuple[float, float] | None = None  # 95 %, ends in the table's unit
    seeds: tuple[int, ...] = ()  # that the value is a mean of; () for a number that somebody else published
    published: float | None = None  # what the paper says stands here, beside ours
    note: str = ""  # a few words: "1 of 3 seeds"

    @property
    def difference(self) -> float | None:
        """Value minus the published one."""
        return None if self.value is None or self.published is None else self.value - self.published


@dataclass(frozen=True)
class Row:
    """A name and one cell per column (None: not measured). Rows of one `group`, which stand together, get its name as a heading."""

    name: str
    cells: Sequence[Cell | None]
    group: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under columns. `notes` are whole sentences below it, `source` says where the published numbers stand, `head` is the first
    column's heading. Raises ValueError when a row has not as many cells as there are columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    source: str = ""
    head: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"table {self.title!r}: row {row.name!r} has {len(row.cells)} cells under {len(self.columns)} columns")

    @property
    def cells(self) -> list[Cell]:
        """All cells that are there, row by row."""
        return [cell for row in self.rows for cell in row.cells if cell is not None]

    def below(self) -> list[str]:
        """The sentences below the table: what the marks mean, the table's own notes, the source of the published numbers."""
        sentences = []
        measured = [cell for cell in self.cells if cell.value is not None]
        sets = {cell.seeds for cell in measured if cell.deviation is not None}
        if sets:
            which = f" {', '.join(map(str, next(iter(sets))))}" if len(sets) == 1 else ""
            sentences.append(f"±: standard deviation over seeds{which}.")
        if any(cell.interval is not None for cell in measured):
            several = " (the mean of the seeds' ends)" if sets else ""
            sentences.append(f"[ ]: 95 % interval{several}.")
        if any(cell.difference is not None for cell in measured):
            sentences.append("Paper: the published number, and ours minus it.")
        return [*sentences, *self.notes, *([f"Published numbers: {self.source}."] if self.source else [])]


def over_seeds(
    values: Mapping[int, float], intervals: Mapping[int, Sequence[float]] | None = None, published: float | None = None, note: str = ""
) -> Cell:
    """{seed: value} as one cell: the mean, the deviation (n - 1; none of one seed), and of the seeds' intervals the mean of the ends,
    which is how wide one seed's interval is and no interval of the mean."""
    seeds = tuple(sorted(values))
    deviation = statistics.stdev(values.values()) if len(values) > 1 else None
    found = [intervals[seed] for seed in seeds if seed in intervals] if intervals else []
    ends = (statistics.fmean(low for low, _ in found), statistics.fmean(high for _, high in found)) if found else None
    return Cell(statistics.fmean(values.values()), deviation, ends, seeds, published, note)


def markdown(table: Table) -> str:
    """A GitHub table with its title above and the sentences below."""
    lines = [
        f"**{_piped(table.title)}**",
        "",
        _bar([_piped(c) for c in (table.head, *table.columns)]),
        _bar(["---", *["--:"] * len(table.columns)]),
    ]
    for heading, rows in _groups(table.rows):
        lines += [_bar([f"*{_piped(heading)}*", *[""] * len(table.columns)])] if heading else []
        lines += [_bar([_piped(row.name), *(_piped(_joined(table, cell)) for cell in row.cells)]) for row in rows]
    below = " ".join(_piped(sentence) for sentence in table.below())
    return "\n".join([*lines, *(["", below] if below else [])]) + "\n"


def plain(table: Table) -> str:
    """For a terminal: aligned columns, what belongs to a number in lines below it."""
    body: list[tuple[str, list[list[str]]]] = []
    for heading, rows in _groups(table.rows):
        body += [(heading, [])] if heading else []
        body += [(("  " if heading else "") + row.name, [_lines(table, cell) for cell in row.cells]) for row in rows]
    first = max([len(table.head), *(len(name) for name, _ in body)])
    widths = [max([len(column), *(len(line) for _, cells in body if cells for line in cells[i])]) for i, column in enumerate(table.columns)]
    lines = [
        table.title,
        "  ".join([table.head.ljust(first), *(c.rjust(w) for c, w in zip(table.columns, widths))]),
        "-" * (first + sum(widths) + 2 * len(widths)),
    ]
    for name, cells in body:
        for k in range(max([1, *(len(cell) for cell in cells)])):
            found = [(cell[k] if k < len(cell) else "").rjust(w) for cell, w in zip(cells, widths)]
            lines.append("  ".join([(name if k == 0 else "").ljust(first), *found]).rstrip())
    return "\n".join([*lines, *table.below()]) + "\n"


def comma_separated(table: Table) -> str:
    """CSV in the table's own layout: after each column those of its deviation, interval, seeds, published number, difference and note,
    where any cell has them; full precision; no sentences."""
    parts: dict[str, Callable[[Cell], object]] = {
        "": lambda cell: cell.value,
        "deviation": lambda cell: cell.deviation,
        "low": lambda cell: cell.interval and cell.interval[0],
        "high": lambda cell: cell.interval and cell.interval[1],
        "seeds": lambda cell: " ".join(map(str, cell.seeds)),
        "published": lambda cell: cell.published,
        "difference": lambda cell: cell.difference,
        "note": lambda cell: cell.note,
    }
    used: list[tuple[int, str]] = []
    for i in range(len(table.columns)):
        column = [row.cells[i] for row in table.rows]
        used += [(i, part) for part in parts if not part or any(cell and parts[part](cell) not in (None, "") for cell in column)]
    grouped = any(row.group for row in table.rows)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*(["group"] if grouped else []), table.head or "row", *(f"{table.columns[i]} {part}".strip() for i, part in used)])
    for row in table.rows:
        found = [parts[part](cell) if (cell := row.cells[i]) is not None else None for i, part in used]
        writer.writerow([*([row.group] if grouped else []), row.name, *("" if value is None else value for value in found)])
    return buffer.getvalue()


def latex(table: Table) -> str:
    """A table environment for booktabs; the sentences stand below the numbers."""
    width = 1 + len(table.columns)
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{_tex(table.title)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    lines += [" & ".join(_tex(name) for name in [table.head, *table.columns]) + r" \\", r"\midrule"]
    for heading, rows in _groups(table.rows):
        lines += [rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_tex(heading)}}}}} \\"] if heading else []
        lines += [" & ".join([_tex(row.name), *(_tex(_joined(table, cell)) for cell in row.cells)]) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [r"\par\smallskip\footnotesize", *(_tex(sentence) for sentence in table.below())] if table.below() else []
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def html_fragment(table: Table) -> str:
    """A <figure class="table"> without any style of its own. Classes: group, ours, number, more, note."""
    width = 1 + len(table.columns)
    heads = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in [table.head, *table.columns])
    lines = ['<figure class="table">', f"<figcaption>{html.escape(table.title)}</figcaption>", '<div class="scroll"><table>']
    lines.append(f"<thead><tr>{heads}</tr></thead>")
    for heading, rows in _groups(table.rows):
        lines.append("<tbody>")
        lines += [f'<tr class="group"><th colspan="{width}" scope="rowgroup">{html.escape(heading)}</th></tr>'] if heading else []
        for row in rows:
            cells = "".join(_html_cell(table, cell) for cell in row.cells)
            lines.append(f'<tr><th scope="row">{html.escape(row.name)}</th>{cells}</tr>')
        lines.append("</tbody>")
    lines.append("</table></div>")
    lines += [f'<p class="note">{html.escape(" ".join(table.below()))}</p>'] if table.below() else []
    return "\n".join([*lines, "</figure>"]) + "\n"


def _html_cell(table: Table, cell: Cell | None) -> str:
    first, *more = _lines(table, cell)
    below = "".join(f'<span class="more">{html.escape(line)}</span>' for line in more)
    return f'<td><span class="number">{html.escape(first)}</span>{below}</td>'


def _lines(table: Table, cell: Cell | None) -> list[str]:
    """A cell as lines: number and deviation; interval; published and difference; note."""
    if cell is None or (cell.value is None and cell.published is None):
        return [cell.note if cell is not None and cell.note else DASH]
    lines = []
    if cell.value is None:
        lines.append(DASH)
    else:
        lines.append(f"{cell.value:.1f}" + ("" if cell.deviation is None else f" ± {cell.deviation:.1f}"))
    if cell.interval is not None:
        lines.append(f"[{cell.interval[0]:.1f}, {cell.interval[1]:.1f}]")
    if cell.published is not None:
        lines.append(f"paper {cell.published:.1f}" + ("" if cell.difference is None else f", {_signed(cell.difference)}"))
    several = len({len(other.seeds) for other in table.cells if other.seeds}) > 1
    if several and cell.seeds:  # seeds that differ from cell to cell are said in the cell
        lines.append(f"{len(cell.seeds)} seed{'s' if len(cell.seeds) > 1 else ''}")
    return [*lines, cell.note] if cell.note else lines


def _joined(table: Table, cell: Cell | None) -> str:
    """A cell in one line."""
    first, *more = _lines(table, cell)
    if more and more[0].startswith("["):
        first, more = f"{first} {more[0]}", more[1:]
    return f"{first} ({'; '.join(more)})" if more else first


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return "±0.0" if float(text) == 0 else text.replace("-", "−")


def _groups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Neighbouring rows of one group."""
    groups: list[tuple[str, list[Row]]] = []
    for row in rows:
        if not groups or groups[-1][0] != row.group:
            groups.append((row.group, []))
        groups[-1][1].append(row)
    return groups


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _piped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


TEX = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "[": "{[}",  # after \\ a bracket would be read as a length
    "]": "{]}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "→": r"$\rightarrow$",
    "λ": r"$\lambda$",
    "τ": r"$\tau$",
    "×": r"$\times$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
}


def _tex(text: str) -> str:
    return "".join(TEX.get(mark, mark) for mark in text.replace("\n", " "))
