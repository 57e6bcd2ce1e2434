"""Tables: the same numbers and words as Markdown, CSV, LaTeX, HTML and plain text."""

import csv
import io

import pytest

from jobs import tables
from jobs.tables import Cell, Row, Table, over_seeds

TABLE = Table(
    "Linear probe, 100 % of A&B_c",
    ["x-sub", "x|view"],
    [
        Row("J", [over_seeds({0: 86.0, 1: 88.0, 2: 87.0}, {0: (84, 88), 1: (86, 90), 2: (85, 89)}, published=87.3), None]),
        Row("raw <floor>", [Cell(50.04, seeds=(0,)), Cell(note="not run")], group="reference points"),
        Row("SCD-Net", [Cell(published=86.6), None], group="peers"),
    ],
    notes=["Lines that help."],
    source="Li et al. 2025, table 3",
    head="stream",
)


def test_a_cell_over_seeds_has_the_mean_the_deviation_and_the_mean_of_the_ends() -> None:
    cell = over_seeds({2: 87.0, 0: 86.0, 1: 88.0}, {0: (84, 88), 1: (86, 90), 2: (85, 89)}, published=87.3)
    assert (cell.value, cell.deviation, cell.interval, cell.seeds) == (87.0, 1.0, (85.0, 89.0), (0, 1, 2))
    assert cell.difference == pytest.approx(-0.3)
    alone = over_seeds({7: 50.0})
    assert (alone.deviation, alone.interval, alone.difference, alone.seeds) == (None, None, None, (7,))


def test_markdown_has_a_row_per_row_with_as_many_cells() -> None:
    lines = tables.markdown(TABLE).splitlines()
    bars = [line.replace("\\|", "").count("|") for line in lines if line.startswith("|")]
    assert len(bars) == 2 + 3 + 2 and set(bars) == {4}  # heading, rule, rows, two group headings
    assert "| J | 87.0 ± 1.0 [85.0, 89.0] (paper 87.3, −0.3; 3 seeds) | – |" in lines
    assert "| SCD-Net | – (paper 86.6) | – |" in lines
    assert "| raw &lt;floor> | 50.0 (1 seed) | not run |" in lines
    assert "over seeds 0, 1, 2" in lines[-1] and lines[-1].endswith("Published numbers: Li et al. 2025, table 3.")


def test_csv_gives_every_number_back() -> None:
    rows = list(csv.DictReader(io.StringIO(tables.comma_separated(TABLE))))
    first, raw, peer = rows
    assert [row["stream"] for row in rows] == ["J", "raw <floor>", "SCD-Net"] and raw["group"] == "reference points"
    assert (float(first["x-sub"]), float(first["x-sub deviation"]), float(first["x-sub low"])) == (87.0, 1.0, 85.0)
    assert (first["x-sub seeds"], float(first["x-sub published"])) == ("0 1 2", 87.3)
    assert float(raw["x-sub"]) == 50.04 and raw["x|view note"] == "not run" and "x|view deviation" not in raw
    assert peer["x-sub"] == "" and float(peer["x-sub published"]) == 86.6


def test_latex_escapes_what_it_would_read_as_commands() -> None:
    text = tables.latex(TABLE)
    assert r"100 \% of A\&B\_c" in text and r"raw \textless{}floor\textgreater{}" in text
    assert r"87.0 $\pm$ 1.0 {[}85.0, 89.0{]} (paper 87.3, $-$0.3; 3 seeds)" in text
    assert text.count("{") == text.count("}") and r"\begin{tabular}{lrr}" in text
    assert all(line.count("&") - line.count(r"\&") == 2 for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line)


def test_html_escapes_names_and_keeps_what_belongs_to_a_number_beside_it() -> None:
    text = tables.html_fragment(TABLE)
    assert "raw &lt;floor&gt;" in text and "<floor>" not in text
    assert '<span class="number">87.0 ± 1.0</span><span class="more">[85.0, 89.0]</span>' in text
    assert text.count("<tr") == text.count("</tr>") == 1 + 3 + 2


def test_plain_text_is_aligned() -> None:
    lines = tables.plain(TABLE).splitlines()
    assert lines[1].index("x-sub") + len("x-sub") == lines[3].index("87.0 ± 1.0") + len("87.0 ± 1.0")
    assert lines[4].strip() == "[85.0, 89.0]" and "  raw <floor>" in lines[8]


def test_seeds_that_are_the_same_everywhere_are_said_once() -> None:
    table = Table("t", ["a"], [Row("r", [over_seeds({0: 1.0, 1: 2.0})])])
    assert "2 seeds" not in tables.markdown(table) and "over seeds 0, 1." in tables.markdown(table)


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="row 'r' has 2 cells under 1 columns"):
        Table("t", ["a"], [Row("r", [None, None])])
