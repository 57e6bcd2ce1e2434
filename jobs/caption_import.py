"""The captioner `import`: captions that others published, by sample key, one or several of each clip.

The PKU-MMD II descriptions of C2VL are one such file: {"A013N008V002C048L005": [16 sentences], ...}.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobs.caption_record import Answer, Ask
from jobs.text import captions_of
from shards.errors import InputError
from shards.manifest import sha256_of

_SHOWN = 3  # keys that a message names
_SUPERVISED = ("label", "program")


@dataclass(frozen=True)
class ImportCaptioner:
    """Answers from a file. captions: the texts of each key, in the file's order; reasons: why a key of the file has none."""

    model: str
    revision: str
    captions: Mapping[str, tuple[str, ...]]
    reasons: Mapping[str, str] = field(default_factory=dict)
    name: str = "import"
    provenance: str = "import"
    sees: Literal["strip", "skeleton", "nothing"] = "nothing"

    @property
    def decode(self) -> dict[str, Any]:
        """How many clips the file describes, and how many captions it has of one at most."""
        return {"clips": len(self.captions), "texts": max(len(texts) for texts in self.captions.values())}

    def __call__(self, asks: Sequence[Ask]) -> list[Answer]:
        """The file's captions of each clip; the answer's `error` where it has none."""
        return [self._answer(ask.key) for ask in asks]

    def _answer(self, key: str) -> Answer:
        if key in self.captions:
            return Answer(self.captions[key])
        return Answer(error=f"no caption in {Path(self.model).name}" + (f": {self.reasons[key]}" if key in self.reasons else ""))


def refuse_unknown(keys: Iterable[str], known: Iterable[str], file: Path | None, where: Path) -> None:
    """InputError that names keys of a file of captions which none of the samples of `where` has."""
    unknown = sorted(set(keys) - set(known))
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        named = ", ".join(repr(key) for key in unknown[:_SHOWN])
        raise InputError(
            f"{file}: no sample of {where} has the key {named}{more}; remove them from the file, or name the data that it describes"
        )


def import_captioner(path: Path) -> ImportCaptioner:
    """The captions of a .jsonl, .json or .csv file (or of a folder of captioning): {key: text}, {key: [texts]}, or records.

    InputError for a file that cannot be read, a key that comes twice, and texts that are a function of the class or of a motion program:
    these keep their provenance only when they are packed as they are."""
    found = captions_of(path)
    marked = sorted({caption.provenance for caption in found.usable.values()} & set(_SUPERVISED))
    if marked:
        raise InputError(
            f"{path}: its captions are marked {marked[0]!r}, which importing would hide; give the file to launch/pack.py --captions"
        )
    file = path / "captions.jsonl" if path.is_dir() else path
    texts = {key: (caption.text, *caption.more) for key, caption in found.usable.items()}
    return ImportCaptioner(str(path), sha256_of(file), texts, found.reasons)
