"""AC-SAR (Li, Ma, Chen 2025): SCD-Net's contrast with one shared trunk, plus a contrast of skeletons with modulated captions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from acsar import film
from acsar.encoder import Stem
from acsar.film import Interaction, TextBranch
from acsar.losses import DuplicateText, equal_captions, text_contrast
from acsar.reliance import exchange
from acsar.scdnet import SCDNet, SCDNetConfig, evaluating, normalise
from acsar.skeleton import Skeleton
from acsar.types import Batch


@dataclass(frozen=True)
class ACSARConfig(SCDNetConfig):
    """Hyper-parameters of AC-SAR: SCD-Net's, and those of the captions."""

    stem: Stem = "shared"  # one trunk feeds both branches, as the paper writes it; split: as the published SCD-Net
    tau_cross: float = 0.15  # temperature of the text contrast
    weight: float = 0.5  # lambda: what the text contrast counts beside the four others
    text_hidden: int = 0  # width between the two linear layers over the tokens; the paper does not say, 0 means `out`
    interaction: Interaction = "film"  # of skeleton and caption (acsar/film.py): film as proposed; none: captions contrasted as they are
    duplicate_text: DuplicateText = "paper"  # equal captions of a batch: negatives of each other, sharing the target, or left out
    mask_padding: bool = False  # positions after a caption's end token count as zero; false: as the text tower gives them


class ACSAR(SCDNet):
    """SCD-Net's losses and "text" = weight * L_cross (eq. 13). Training needs Batch.text; encode and project do not.

    Samples without caption (Batch.has_text) take part in all but L_cross, which is the mean over those that have one."""

    needs_text = True
    config: ACSARConfig

    def __init__(self, config: ACSARConfig, skeleton: Skeleton, text_shape: tuple[int, int], seed: int) -> None:
        super().__init__(config, skeleton, seed)
        tokens, features = text_shape
        with torch.random.fork_rng(devices=[]):
            hidden = config.text_hidden or config.out
            self.text = TextBranch(tokens, features, config.out, hidden, config.interaction, config.mask_padding)
        film.initialise(self.text, torch.Generator().manual_seed(seed))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        text = _text(batch)
        losses, z_g = self.contrast(*self.views(batch))
        embedded = self.text.embed(text, batch.text_tokens)
        losses["text"] = self.config.weight * self.cross(z_g, embedded, batch.text_id, has_text=batch.has_text)
        return losses

    def cross(
        self, z_g: Tensor, embedded: Tensor, text_id: Tensor | None, across_ranks: bool = True, has_text: Tensor | None = None
    ) -> Tensor:
        """L_cross (eq. 8-12) of global features [b,out] before normalisation and captions as `TextBranch.embed` gives them; before its
        weight."""
        modulated = normalise(self.text.modulate(embedded, z_g))
        c = self.config
        return text_contrast(normalise(z_g), modulated, c.tau_cross, text_id, c.duplicate_text, across_ranks, has_text)

    def report(self, batch: Batch) -> dict[str, float]:
        """On samples that were not trained on, of this process alone; those without caption are left out of all of it:

        text_reliance          L_cross with exchanged captions minus L_cross with the true ones; nan with fewer than two distinct captions
        text_reliance_share    the same as a share of ln(number of samples compared)
        text_reliance_covered  share of the samples compared (below 1 when one caption holds the majority)
        equal_captions         share of the samples whose caption another one has too"""
        text = _text(batch)
        text_id = _ids(text) if batch.text_id is None else batch.text_id
        known = torch.arange(len(text), device=text.device) if batch.has_text is None else batch.has_text.nonzero()[:, 0]
        if len(known) == 0:
            return dict.fromkeys(("text_reliance", "text_reliance_share", "text_reliance_covered", "equal_captions"), math.nan)
        rows, partners = (known[chosen] for chosen in exchange(text_id[known], batch.draws[known]))

        def tokens(chosen: Tensor) -> Tensor | None:
            return None if batch.text_tokens is None else batch.text_tokens[chosen]

        value = math.nan
        if len(rows) > 1:
            with evaluating(self):
                z_g = self.project(batch.joints[rows], batch.frames[rows])["g"]
                true, exchanged = (
                    self.cross(z_g, self.text.embed(text[chosen], tokens(chosen)), text_id[chosen], across_ranks=False)
                    for chosen in (rows, partners)
                )
                value = float(exchanged - true)
        return {
            "text_reliance": value,
            "text_reliance_share": value / math.log(len(rows)) if len(rows) > 1 else math.nan,
            "text_reliance_covered": len(rows) / len(known),
            "equal_captions": equal_captions(text_id[known]),
        }


def _text(batch: Batch) -> Tensor:
    if batch.text is None:
        raise ValueError("AC-SAR needs the captions' features (Batch.text); train on a set with texts, or use SCD-Net")
    return batch.text


def _ids(text: Tensor) -> Tensor:
    """Equal captions by their features: [B,L,D] -> [B] int64."""
    ids: Tensor = text.flatten(1).unique(dim=0, return_inverse=True)[1]  # type: ignore[no-untyped-call]
    return ids
