"""A report as one HTML page that needs nothing else: style, pictures and charts are in it; narrow, wide, dark and printed."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs import tables
from jobs.tables import Table

KINDS = {".png": "image/png", ".gif": "image/gif"}


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in this order."""

    title: str
    text: Sequence[str] = ()  # paragraphs
    sentences: Sequence[str] = ()  # a list
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)  # lists with headings of their own
    charts: Sequence[str] = ()  # SVG figures
    tables: Sequence[Table] = ()
    pictures: Sequence[tuple[str, Path]] = ()  # (caption, file)
    commands: Sequence[str] = ()  # lines to type


@dataclass(frozen=True)
class Page:
    """All of a report."""

    title: str
    summary: Sequence[str]  # paragraphs
    sections: Sequence[Section] = field(default=())


def page(document: Page) -> str:
    """The whole page."""
    kept = [section for section in document.sections if _body(section)]
    links = "".join(f'<li><a href="#{_anchor(section.title)}">{html.escape(section.title)}</a></li>' for section in kept)
    head = f"<header><h1>{html.escape(document.title)}</h1>{_paragraphs(document.summary)}<nav><ul>{links}</ul></nav></header>"
    body = "".join(f'<section id="{_anchor(s.title)}"><h2>{html.escape(s.title)}</h2>\n{_body(s)}</section>\n' for s in kept)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(document.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{head}\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def markdown(document: Page) -> str:
    """The same without charts; pictures by their paths."""
    lines = [f"# {document.title}", "", *_spaced(document.summary)]
    for section in document.sections:
        if not _body(replace(section, charts=())):
            continue
        lines += [f"## {section.title}", "", *_spaced(section.text)]
        lines += [*(f"- {sentence}" for sentence in section.sentences), ""] if section.sentences else []
        for name, found in section.lists.items():
            lines += [f"### {name}", "", *(f"- {line}" for line in found), ""] if found else []
        lines += [line for table in section.tables for line in (tables.markdown(table), "")]
        lines += [*(f"- {caption}: `{path}`" for caption, path in section.pictures), ""] if section.pictures else []
        lines += ["```bash", *section.commands, "```", ""] if section.commands else []
    return "\n".join(lines).rstrip() + "\n"


def _body(section: Section) -> str:
    parts = [_paragraphs(section.text)]
    parts += [_list(section.sentences)] if section.sentences else []
    parts += [f"<h3>{html.escape(name)}</h3>\n{_list(lines)}" for name, lines in section.lists.items() if lines]
    parts += [*section.charts, *(tables.html_fragment(table) for table in section.tables)]
    parts += [_picture(caption, path) for caption, path in section.pictures]
    parts += [f"<pre>{html.escape(chr(10).join(section.commands))}</pre>\n"] if section.commands else []
    return "".join(parts)


def _picture(caption: str, path: Path) -> str:
    source = f"data:{KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
    told = html.escape(caption)
    return f'<figure class="picture"><figcaption>{told}</figcaption><img src="{source}" alt="{told}"></figure>\n'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>\n"


def _paragraphs(text: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(paragraph)}</p>\n" for paragraph in text)


def _spaced(paragraphs: Sequence[str]) -> list[str]:
    return [line for paragraph in paragraphs for line in (paragraph, "")]


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


# Colours of the methods: Okabe and Ito's, which colour-blind readers tell apart; lighter on dark ground.
STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1c2126; --soft: #5b6670; --rule: #d5dadf; --tint: #f3f5f7;
  --m0: #0072b2; --m1: #c4500a; --m2: #00805e; --m3: #a8487f; --m4: #8a6d00; --m5: #4b5a66; --random: #7d8993; --raw: #b8860b; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181c; --ink: #e6eaee; --soft: #9ba7b2; --rule: #343c44; --tint: #1e242a;
  --m0: #56b4e9; --m1: #f2894d; --m2: #3ecf9f; --m3: #e29cc4; --m4: #e0c341; --m5: #b4c0ca; --random: #8b97a2; --raw: #e6b94d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, li { max-width: 52rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; }
a { color: var(--m0); }
main > section > ul { margin: .3rem 0; padding-left: 1.2rem; }
figure { margin: 1.4rem 0; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
th, td { padding: .3rem .7rem; text-align: right; vertical-align: top; }
tbody th, thead th:first-child { text-align: left; font-weight: 400; }
tbody tr:not(.group) { border-bottom: 1px solid var(--rule); }
tr.group th { background: var(--tint); color: var(--soft); font-size: .85rem; }
.number { display: block; white-space: nowrap; font-weight: 600; }
.more { display: block; white-space: nowrap; color: var(--soft); font-size: .8rem; }
.note { color: var(--soft); font-size: .85rem; margin: .4rem 0 0; }
pre { background: var(--tint); padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; line-height: 1.6; }
.picture img { max-width: 100%; height: auto; background: #ffffff; }
svg { width: 100%; max-width: 720px; display: block; font: 13px system-ui, "Noto Sans", "DejaVu Sans", sans-serif; }
svg text { fill: var(--ink); } svg .stream { font-weight: 600; }
svg .tick { text-anchor: middle; fill: var(--soft); font-size: 12px; } svg .grid { stroke: var(--rule); }
svg .value { font-weight: 600; font-variant-numeric: tabular-nums; }
svg .thin { stroke: currentColor; stroke-width: 1.5; } svg .thick { stroke: currentColor; stroke-width: 6; stroke-opacity: .45; }
svg circle { fill: currentColor; } svg .raw { fill: var(--raw); }
svg .random { fill: var(--ground); stroke: var(--random); stroke-width: 1.6; }
.m0 { color: var(--m0); } .m1 { color: var(--m1); } .m2 { color: var(--m2); }
.m3 { color: var(--m3); } .m4 { color: var(--m4); } .m5 { color: var(--m5); }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 0 1.2rem; font-size: .85rem; margin: 0 0 .3rem; }
.legend li::before { content: "●"; margin-right: .35rem; }
@media (max-width: 40rem) { body { padding: 1rem .8rem 3rem; font-size: 15px; } h1 { font-size: 1.35rem; }
  th, td { padding: .25rem .45rem; } }
@media print { :root { color-scheme: light; --ground: #fff; --ink: #000; --soft: #444; --rule: #bbb; --tint: #f2f2f2; }
  body { max-width: none; font-size: 10pt; } nav { display: none; } figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
  .scroll { overflow: visible; } pre { white-space: pre-wrap; } }
"""
