"""Fetch the weights that captioning and encoding load into one folder, on a machine with a network; jobs on compute nodes download nothing.

ASSETS is --assets, else $ACSAR_ASSETS, else ~/.cache/acsar. Beside each asset lies its manifest: source, revision, sha256 and bytes.
What is there and whole is left alone, what was broken off is continued. HF_ENDPOINT and HF_TOKEN are read as the hub's own client does.

    python launch/fetch_assets.py                                         detector, captioner (Ovis2-8B, 17 GB) and text tower
    python launch/fetch_assets.py --only text --text ViT-B-16/openai
    python launch/fetch_assets.py --only captioner --captioner thisisiron/Ovis2-1B-hf@main
    python launch/fetch_assets.py --from /media/stick                     files that were brought by hand
    python launch/fetch_assets.py --check                                 read every byte, and compare
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from jobs import InputError
from jobs.assets import CAPTIONER, DETECTOR, TEXT, Asset, assets_folder, bring, check, fetch, manifests
from launch.cli import finish, parse, print_json
from launch.data import say

ROLES = ("detector", "captioner", "text")


@dataclass(frozen=True)
class Fetch:
    """Flags of `fetch_assets`."""

    assets: Path | None = None  # folder of weights; default: $ACSAR_ASSETS, else ~/.cache/acsar
    only: tuple[str, ...] = ROLES  # of detector, captioner, text
    detector: str = DETECTOR.name  # a weight file of ultralytics' release
    captioner: str = CAPTIONER.name  # repository of the hub; NAME@REVISION names a branch, tag or commit
    text: str = "ViT-B-32/openai"  # open_clip's model and tag, or a repository of the hub with open_clip's files
    # take them from this folder: another ASSETS, a copy of a hub cache, or files in folders of the repositories' names
    brought: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    check: bool = False  # fetch nothing: is what is there whole?
    json: bool = False  # print one JSON document and nothing else


def main(argv: list[str]) -> int:
    """Fetch, take or check, and list what is there."""
    command = parse(Fetch, argv, __doc__ or "")
    if unknown := [role for role in command.only if role not in ROLES]:
        raise InputError(f"--only {','.join(unknown)}: one or more of {', '.join(ROLES)}")
    folder = assets_folder(command.assets)
    if command.check:
        if not manifests(folder):
            raise InputError(f"{folder} has no weights; fetch them with: python launch/fetch_assets.py --assets {folder}")
        if wrong := check(folder):
            raise InputError("\n".join([f"{len(wrong)} files are not what their manifests say", *(f"  {line}" for line in wrong)]))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for asset in wanted(command):
            if command.brought is not None:
                bring(asset, command.brought.resolve(), folder, say)
            else:
                fetch(asset, folder, say)
    there = manifests(folder)
    if command.json:
        print_json({"assets": str(folder), "manifests": [asdict(manifest) for manifest in there]})
    else:
        for manifest in there:
            size = sum(int(file["bytes"]) for file in manifest.files.values()) / 1e6
            say(f"{manifest.role:<9} {manifest.name} {manifest.revision or '(by hand)'} {len(manifest.files)} files, {size:,.1f} MB")
        say(f"{'whole, every byte read' if command.check else 'weights'}: {folder}")
    return 0


def wanted(command: Fetch) -> list[Asset]:
    """The assets that the flags name."""
    return [{"detector": detector, "captioner": captioner, "text": text}[role](command) for role in ROLES if role in command.only]


def detector(command: Fetch) -> Asset:
    """A file of the detectors' release; the suffix may be left out."""
    name = command.detector if command.detector.endswith(".pt") else f"{command.detector}.pt"
    return replace(DETECTOR, name=name, files=(name,))


def captioner(command: Fetch) -> Asset:
    """A repository of the hub."""
    name, _, revision = command.captioner.partition("@")
    return replace(CAPTIONER, name=name, revision=revision or CAPTIONER.revision)


def text(command: Fetch) -> Asset:
    """A repository, by its own name or by open_clip's model and tag."""
    said, _, revision = command.text.partition("@")
    if said != "ViT-B-32/openai":
        from jobs.encode_text import is_model, repository_of  # open_clip

        model, _, tag = said.partition("/")
        said = repository_of(model, tag) if is_model(model) else said
    else:
        said = TEXT.name
    return replace(TEXT, name=said, revision=revision or TEXT.revision)


if __name__ == "__main__":
    finish(main)
