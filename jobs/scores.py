"""Arrays with a note: what a probe keeps for fusion and figures, as .npz files without pickles, and joined by sample key."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs.run_folder import write_bytes
from shards.errors import InputError

SAME_CLIPS = ("content_id", "protocol")  # facts that results on the same test clips share


@dataclass(frozen=True)
class Scores:
    """One stream's linear probe on the test part: n keys, scores [n,N] logits, labels [n], subjects [n], class names, and facts
    (content_id, protocol, stream, encoder sha256, seed)."""

    keys: list[str]
    scores: Tensor
    labels: Tensor
    subjects: Tensor
    classes: tuple[str, ...]
    facts: dict[str, Any]


def write_scores(path: Path, scores: Scores) -> None:
    """Write STREAM.scores.npz."""
    arrays = {"scores": scores.scores.numpy(), "labels": scores.labels.numpy(), "subjects": scores.subjects.numpy()}
    write_arrays(path, {**scores.facts, "classes": scores.classes}, keys=np.array(scores.keys), **arrays)


def read_scores(path: Path) -> Scores:
    """STREAM.scores.npz. Raises InputError when it is not there, damaged, or holds scores that are not finite."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; probe that stream first: python launch/probe.py --run {path.parents[2]}")
    arrays, facts = read_arrays(path)
    if set(arrays) != {"keys", "scores", "labels", "subjects"} or not np.isfinite(arrays["scores"]).all():
        raise InputError(f"{path} holds no finite scores by key; delete it and probe again")
    scores, labels, subjects = (torch.from_numpy(arrays[name]) for name in ("scores", "labels", "subjects"))
    return Scores(arrays["keys"].tolist(), scores, labels, subjects, tuple(facts.pop("classes")), facts)


def joined(streams: Mapping[str, Scores], of: str = "streams", facts: Sequence[str] = SAME_CLIPS) -> dict[str, Scores]:
    """The same streams (or what `of` says they are) with rows in one order, that of the sorted keys.

    Raises InputError when they differ in one of these facts, in classes, keys or labels, naming the first difference."""
    first_name, first = next(iter(streams.items()))
    order = {name: sorted(range(len(s.keys)), key=s.keys.__getitem__) for name, s in streams.items()}
    found = {name: _take(s, order[name]) for name, s in streams.items()}
    for name, scores in found.items():
        pair = f"{of} {first_name} and {name}"
        for fact in facts:
            if scores.facts.get(fact) != first.facts.get(fact):
                values = f"{first.facts.get(fact)} and {scores.facts.get(fact)}"
                raise InputError(f"{pair} differ in {fact}: {values}; take results of one kind")
        if scores.classes != first.classes:
            raise InputError(f"{pair} were probed with other classes ({len(first.classes)} and {len(scores.classes)}); probe both again")
        only = sorted(set(first.keys) ^ set(scores.keys))
        if only:
            counts = f"{len(first.keys)} and {len(scores.keys)} keys"
            raise InputError(f"{pair} have other samples: {counts}, {len(only)} in one only, for example {only[0]}; probe both again")
        if scores.keys != found[first_name].keys:
            raise InputError(f"{pair}: a key is there twice, for example {_twice(scores.keys) or _twice(first.keys)}; probe both again")
        if not torch.equal(scores.labels, found[first_name].labels):
            row = int((scores.labels != found[first_name].labels).nonzero()[0])
            raise InputError(f"{pair} have other labels, for example for {scores.keys[row]}; probe both again")
    return found


def _take(scores: Scores, order: list[int]) -> Scores:
    keys = [scores.keys[i] for i in order]
    return Scores(keys, scores.scores[order], scores.labels[order], scores.subjects[order], scores.classes, scores.facts)


def _twice(keys: list[str]) -> str:
    return next((key for key, following in zip(sorted(keys), sorted(keys)[1:]) if key == following), "")


def write_arrays(path: Path, spec: dict[str, Any], **arrays: Any) -> None:
    """Write an .npz with a JSON `spec`, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, spec=np.array(json.dumps(spec, sort_keys=True)), **arrays)
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and spec of an .npz. Raises InputError when it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return arrays, json.loads(str(arrays.pop("spec")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and probe again") from None
