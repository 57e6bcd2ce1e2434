"""A page to judge captions by: strips, what was said of them, what the gate holds against it. One HTML file that needs nothing else.

Captions come from models and from strangers' files: every word of them is escaped, what cannot be seen is shown by its code, and the page
itself forbids scripts, forms and everything that would be fetched.
"""

import base64
import html
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from jobs.caption_record import CaptionRecord, Strip
from shards.manifest import write_file

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STRIP_HEIGHT, QUALITY = 224, 82  # pixels and JPEG quality of a strip on the page: 50 of them are about 2 MB
HIDDEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")  # Unicode categories that draw nothing, or change how their neighbours are drawn

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1500px; padding: 16px 24px 48px; font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
  color: #1d2430; background: #fff; }
h1 { font-size: 22px; margin: 8px 0 4px; } h2 { font-size: 17px; margin: 28px 0 8px; }
p { margin: 2px 0; color: #4a5463; }
table { border-collapse: collapse; margin-top: 12px; }
th, td { text-align: left; vertical-align: top; padding: 5px 14px 5px 0; border-bottom: 1px solid #e3e7ec; }
th { font-weight: 600; color: #4a5463; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
section { border-top: 1px solid #cfd6de; padding: 14px 0 18px; overflow: hidden; break-inside: avoid; }
section > img { display: block; max-width: 100%; max-height: 224px; border-radius: 3px; }
.key { font-weight: 600; overflow-wrap: anywhere; } .about { color: #4a5463; margin: 0 0 8px; }
.told { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 12px 28px; margin-top: 10px; }
.who { font-size: 13px; font-weight: 600; color: #24557a; overflow-wrap: anywhere; }
.text { overflow-wrap: anywhere; margin: 2px 0; color: inherit; }
.small { font-size: 13px; color: #5b6675; overflow-wrap: anywhere; }
.flag { display: inline-block; font-size: 13px;
  padding: 0 7px; margin: 2px 6px 2px 0; border-radius: 9px; background: #fbe3df; color: #8c1f0f; }
.none { padding: 10px 12px; background: #f3f5f7; color: #5b6675; border-radius: 3px; overflow-wrap: anywhere; }
.code { font: 12px/1 ui-monospace, "DejaVu Sans Mono", monospace; background: #fff1c9; color: #6b4e00; padding: 0 2px; border-radius: 2px; }
@media print { body { max-width: none; } }
"""


@dataclass(frozen=True)
class Said:
    """What one captioner said of one clip. score: how well CLIP thinks that text and strip fit, where that was measured; note: in words."""

    record: CaptionRecord
    score: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One clip: its strip, or why there is none, and a cell for each column (None: that captioner was not asked). note: beside the key."""

    key: str
    strip: Strip | str
    said: tuple[Said | None, ...]
    note: str = ""


def write_sheet(path: Path, title: str, about: Sequence[str], columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write the page, whole or not at all; see `sheet`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, [sheet(title, about, columns, rows).encode("utf-8")])


def sheet(title: str, about: Sequence[str], columns: Sequence[str], rows: Sequence[Row]) -> str:
    """The page as HTML: `about` in lines under the title, a table with a line for each captioner of `columns`, then the clips in order.

    Raises ValueError where a row has not a cell for each column."""
    for row in rows:
        if len(row.said) != len(columns):
            raise ValueError(f"{row.key} has {len(row.said)} cells for {len(columns)} columns")
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">',
        f"<title>{shown(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{shown(title)}</h1>",
        *(f"<p>{shown(line)}</p>" for line in about),
        _summary(columns, rows),
        *(_section(row, columns) for row in rows),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def shown(text: str) -> str:
    """The text as HTML that draws it and does nothing else; characters that cannot be seen, or that turn the line around, by their code."""
    return "".join(
        f'<span class="code">U+{ord(c):04X}</span>' if unicodedata.category(c) in HIDDEN else html.escape(c, quote=True) for c in text
    )


def jpeg(strip: Strip, height: int = STRIP_HEIGHT) -> str:
    """The strip as a data URL, at most `height` pixels high."""
    picture = Image.fromarray(strip.image)
    if picture.height > height:
        picture = picture.resize((max(1, round(picture.width * height / picture.height)), height), Image.Resampling.BICUBIC)
    content = BytesIO()
    picture.save(content, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _summary(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """A line for each captioner: how many clips, what became of them, how long its captions are."""
    head = ("captioner", "clips", "usable", "no caption", "flags", "distinct", "tokens", "CLIP score")
    lines = [f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"]
    for i, column in enumerate(columns):
        said = [cell for row in rows if (cell := row.said[i]) is not None]
        records = [cell.record for cell in said]
        flags = Counter(flag for record in records for flag in record.flags)
        texts = [record.text for record in records if record.text]
        scores = [cell.score for cell in said if cell.score is not None]
        counted = [record.tokens for record in records if record.text and record.tokens]
        numbers = (len(records), sum(record.usable for record in records), len(records) - len(texts))
        cells = [f"<td>{shown(column)}</td>", *(f'<td class="number">{number}</td>' for number in numbers)]
        cells.append(f"<td>{shown(', '.join(f'{name} {count}' for name, count in flags.most_common())) or 'none'}</td>")
        cells.append(f'<td class="number">{len(set(texts))}</td>')
        cells.append(f'<td class="number">{sum(counted) / len(counted):.0f}</td>' if counted else "<td>not counted</td>")
        cells.append(f'<td class="number">{sum(scores) / len(scores):.3f}</td>' if scores else "<td>not measured</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>" if columns else ""


def _section(row: Row, columns: Sequence[str]) -> str:
    """One clip."""
    facts = [row.note] if row.note else []
    if isinstance(row.strip, Strip):
        facts.append(f"crop: {row.strip.crop}, frames {', '.join(map(str, row.strip.frames))}")
        picture = f'<img alt="strip of {shown_plain(row.key)}" src="{jpeg(row.strip)}">'
    else:
        picture = f'<div class="none">no strip: {shown(row.strip)}</div>'
    head = f'<p class="about"><span class="key">{shown(row.key)}</span> &nbsp; {shown("; ".join(facts))}</p>'
    cells = "".join(f"<div>{_cell(column, said)}</div>" for column, said in zip(columns, row.said, strict=True))
    return f'<section>{head}{picture}<div class="told" style="--columns: {max(1, len(columns))}">{cells}</div></section>'


def _cell(column: str, said: Said | None) -> str:
    """What one captioner said of one clip."""
    who = f'<div class="who">{shown(column)}</div>'
    if said is None:
        return f'{who}<div class="small">not asked</div>'
    record = said.record
    flags = "".join(f'<span class="flag">{shown(flag)}</span>' for flag in (*record.flags, *(("no caption",) if record.error else ())))
    texts = "".join(f'<p class="text">{shown(text)}</p>' for text in dict.fromkeys((record.text, *record.texts)) if text)
    facts = [record.error] if record.error else []
    facts += [f"{record.tokens} tokens"] if record.tokens else []
    facts += [f"prompt {record.prompt}"] if record.prompt else []
    facts += list(record.notes)
    facts += [f"CLIP {said.score:.3f}"] if said.score is not None else []
    facts += [said.note] if said.note else []
    return f'{who}{texts}<div>{flags}</div><div class="small">{shown("; ".join(facts))}</div>'


def shown_plain(text: str) -> str:
    """The text for an attribute's value: escaped, what cannot be seen as a question mark."""
    return html.escape("".join("?" if unicodedata.category(c) in HIDDEN else c for c in text), quote=True)
