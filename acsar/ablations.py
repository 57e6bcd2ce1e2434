"""The paper's ablations as data: every row of tables 6 to 9, of figure 5 and of the captioners' comparison; and the stem, which is ours.

A row says what it changes in AC-SAR's configuration and which captions it needs. What the paper leaves undefined (formulas of the
interactions, a sentence in eq. 5) is defined in acsar/film.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from acsar.ac_sar import ACSARConfig
from acsar.scdnet import SCDNetConfig


@dataclass(frozen=True)
class Texts:
    """Captions as a row needs them; the defaults are the paper's own.

    form       word: CLIP's features of every token; sentence: one CLIP vector; undecoded: the captioner's own hidden states
    length     most tokens of a caption
    frames     of a clip, side by side in the strip that the captioner sees
    captioner  who wrote them"""

    form: Literal["word", "sentence", "undecoded"] = "word"
    length: int = 75
    frames: int = 5
    captioner: str = "Ovis"


TEXTS = {
    "word": Texts(),
    "sentence": Texts(form="sentence"),
    "undecoded75": Texts(form="undecoded"),
    "undecoded512": Texts(form="undecoded", length=512),
    "frames3": Texts(frames=3),
    "frames8": Texts(frames=8),
    "deepseek-vl": Texts(captioner="DeepSeek-VL"),
    "video-ccam": Texts(captioner="Video-CCAM"),
}
"""By the names under which launch/sweep.py is told where they lie; "word" are those of the set that is named first."""


@dataclass(frozen=True)
class Row:
    """One line of an ablation.

    name       what the line is called
    published  top-1 of the linear probe, NTU RGB+D 60 x-sub, joint stream, in percent; None: the paper has no such line
    changes    fields of the configuration that differ from the base recipe's
    texts      the captions that it needs, a name in TEXTS; "": none at all, SCD-Net's losses alone"""

    name: str
    published: float | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    texts: str = "word"


@dataclass(frozen=True)
class Ablation:
    """One table: its title, where the published numbers stand (Acta Electronica Sinica 2025), the line that is AC-SAR as it was proposed,
    and all lines in the paper's order."""

    title: str
    source: str
    proposed: str
    rows: tuple[Row, ...]


# Table 6's baseline is the paper's reproduced SCD-Net, which has a trunk per branch.
SCDNET = {"stem": "split"}
UNMODULATED, FILM = {"interaction": "none"}, {"interaction": "film"}

ABLATIONS = {
    "6": Ablation(
        "Text and modulation",
        "table 6",
        "CLIP features, modulated",
        (
            Row("no text (SCD-Net)", 84.7, SCDNET, ""),
            Row("undecoded, unmodulated", 85.9, UNMODULATED, "undecoded75"),
            Row("CLIP features, unmodulated", 85.8, UNMODULATED),
            Row("undecoded, modulated", 87.0, FILM, "undecoded75"),
            Row("CLIP features, modulated", 87.3, FILM),
        ),
    ),
    "7": Ablation(
        "Temperature and weight of the text contrast",
        "table 7",
        "tau_cross 0.15, lambda 0.5",
        tuple(
            Row(f"tau_cross {tau:.2f}, lambda {weight:.1f}", published, {"tau_cross": tau, "weight": weight})
            for tau, weight, published in ((0.10, 0.5, 86.6), (0.20, 0.5, 86.8), (0.15, 0.5, 87.3), (0.15, 0.4, 86.4), (0.15, 0.6, 86.5))
        ),
    ),
    "8": Ablation(
        "Length and form of the text",
        "table 8",
        "75 tokens, CLIP word features",
        (
            Row("512 tokens, undecoded", 86.7, {}, "undecoded512"),
            Row("75 tokens, undecoded", 87.0, {}, "undecoded75"),
            Row("75 tokens, CLIP sentence feature", 87.0, {}, "sentence"),
            Row("75 tokens, CLIP word features", 87.3),
        ),
    ),
    "9": Ablation(
        "Frames of the strip",
        "table 9",
        "5 frames",
        (
            Row("3 frames", 86.7, {}, "frames3"),
            Row("5 frames", 87.3),
            Row("8 frames", 86.5, {}, "frames8"),
        ),
    ),
    "figure5": Ablation(
        "Interaction of skeleton and text",
        "figure 5; none: table 6",
        "FiLM",
        (
            Row("none", 85.8, UNMODULATED),
            Row("linear fusion", 86.8, {"interaction": "linear"}),
            Row("gated fusion", 86.4, {"interaction": "gated"}),
            Row("cross-attention", 86.5, {"interaction": "cross-attention"}),
            Row("FiLM", 87.3, FILM),
        ),
    ),
    "captioner": Ablation(
        "Captioner",
        "section 5.2",
        "Ovis",
        (
            Row("Video-CCAM", 86.6, {}, "video-ccam"),
            Row("DeepSeek-VL", 86.9, {}, "deepseek-vl"),
            Row("Ovis", 87.3),
        ),
    ),
    "stem": Ablation(
        "One trunk or two",
        "ours; SCD-Net and AC-SAR: table 6",
        "AC-SAR, shared",
        (
            Row("SCD-Net, split", 84.7, SCDNET, ""),
            Row("SCD-Net, shared", None, {"stem": "shared"}, ""),
            Row("AC-SAR, split", None, {"stem": "split"}),
            Row("AC-SAR, shared", 87.3, {"stem": "shared"}),
        ),
    ),
}
"""By what `launch/sweep.py --table` calls them."""


def configured(row: Row, base: ACSARConfig) -> SCDNetConfig:
    """The method of one row over a base recipe's: an ACSARConfig; for a row without captions an SCDNetConfig of the same size."""
    if row.texts:
        return replace(base, **row.changes)
    return SCDNetConfig(**{**{f.name: getattr(base, f.name) for f in fields(SCDNetConfig)}, **row.changes})


def rows_of(method: SCDNetConfig, base: ACSARConfig, texts: str) -> list[tuple[str, str]]:
    """(ablation, row) of each line that a run stands for: its method, its recipe's method, and its captions by their name in TEXTS
    ("" for a method without). The stream may be any."""
    ours = replace(method, stream=base.stream)
    return [(name, row.name) for name, a in ABLATIONS.items() for row in a.rows if (configured(row, base), row.texts) == (ours, texts)]
