"""jobs/classifier.py: what a probe keeps of its linear classifier comes back as it was, and nothing else is taken for one."""

from pathlib import Path

import pytest
import torch

from jobs.classifier import FACTS, Classifier, load, save
from shards.errors import InputError


def classifier(classes: tuple[str, ...] = ("sit down", "stand up", "wave"), width: int = 4) -> Classifier:
    numbers = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(len(classes), width, generator=numbers), torch.randn(len(classes), generator=numbers)
    return Classifier(weight, bias, classes, {name: f"its {name}" for name in FACTS})


def test_a_classifier_comes_back_as_it_was_and_equal_ones_are_equal_files(tmp_path: Path) -> None:
    path, own = tmp_path / "probe/xsub/joint.classifier.safetensors", classifier()
    save(path, own)
    found = load(path)
    assert torch.equal(found.weight, own.weight) and torch.equal(found.bias, own.bias)
    assert found.classes == own.classes and found.facts == own.facts
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(found(x), x @ own.weight.T + own.bias)
    again = tmp_path / "again.safetensors"
    save(again, Classifier(own.weight, own.bias, own.classes, dict(reversed(own.facts.items()))))
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all"])
def test_what_is_no_classifier_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "run/probe/xsub/joint.classifier.safetensors"
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"joint\.classifier\.safetensors .*(probe or fine-tune that stream first|probe again)") as told:
        load(path)
    assert "\n" not in str(told.value)


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    own = classifier()
    wrong = [
        (Classifier(own.weight, own.bias, own.classes[:2], own.facts), "2 classes"),
        (Classifier(own.weight, own.bias, own.classes, {"stream": "joint"}), "does not say content_id"),
        (Classifier(own.weight * torch.inf, own.bias, own.classes, own.facts), "not finite"),
    ]
    for bad, said in wrong:
        with pytest.raises(ValueError, match=said):
            save(tmp_path / "bad.safetensors", bad)
    assert not (tmp_path / "bad.safetensors").exists()
