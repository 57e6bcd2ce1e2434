"""Weights of the published SCD-Net code, in and out: which of its tensors is which slice of ours."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from acsar.scdnet import SCDNet, SCDNetConfig
from acsar.skeleton import by_joints
from acsar.types import Method

PREFIXES = ("module.encoder_q.", "encoder_q.", "module.")
SUBSETS = 3
TRANSFORMER = {
    "self_attn.out_proj": "mix",
    "linear1": "widen",
    "linear2": "narrow",
    "norm1": "norm_attention",
    "norm2": "norm_feedforward",
}
# Which axis of which tensor says how large the network is.
SIZES = {
    "c1": ("encoder.gcn_t.l1.gcn1.convs.0.conv3.weight", 0),
    "joints": ("encoder.gcn_t.l1.gcn1.PA", 1),
    "width": ("encoder.channel_t.0.weight", 0),
    "out": ("t_proj.2.weight", 0),
}


Index = tuple[int | slice, ...]
Part = tuple[str, str, Index]


@dataclass(frozen=True)
class Slice:
    """`official` is ours[name][index], reshaped."""

    official: str
    name: str
    index: Index
    shape: tuple[int, ...]


def load_scdnet(state_dict: Mapping[str, Tensor], heads: int = 8) -> Method:
    """SCD-Net with the query encoder of a published checkpoint, in evaluation mode; the key encoder is a copy, the queues are fresh.

    Names may carry the prefixes encoder_q., module. or both; key encoder, queues and a classifier are ignored. Sizes are read from the
    tensors, except the number of attention heads. Raises ValueError naming a missing or misshapen tensor."""
    state = _query(state_dict)
    method = _empty(state, heads)
    ours = method.query.state_dict()
    for part in slices(method):
        theirs = state.get(part.official)
        if theirs is None and part.official.endswith("num_batches_tracked"):
            continue
        if theirs is None:
            raise ValueError(f"tensor {part.official} is missing; give the state dict of SCD-Net's pretraining (encoder_q with projectors)")
        if tuple(theirs.shape) != part.shape:
            raise ValueError(
                f"tensor {part.official} is {tuple(theirs.shape)}, expected {part.shape} from the other tensors; "
                "is it a checkpoint of SCD-Net with 64 frames and two people?"
            )
        target = ours[part.name][part.index]
        target.copy_(theirs.reshape(target.shape))
    method.key.load_state_dict(method.query.state_dict())
    return method.eval()


def save_scdnet(method: Method) -> dict[str, Tensor]:
    """The query encoder as the published code names its tensors (without prefix). A shared trunk is written for both branches.

    Raises ValueError for a method that is not built on SCD-Net."""
    if not isinstance(method, SCDNet):
        raise ValueError(f"{type(method).__name__} is not built on SCD-Net; only SCDNet and ACSAR have these tensors")
    ours = method.query.state_dict()
    return {part.official: ours[part.name][part.index].reshape(part.shape).clone() for part in slices(method)}


def slices(method: SCDNet) -> list[Slice]:
    """Every tensor of the published query encoder, in its order, and where we keep it."""
    ours, c1 = method.query.state_dict(), method.config.c1
    second = "encoder.trunk" if method.query.encoder.trunk_s is None else "encoder.trunk_s"
    parts = [*_trunk("encoder.gcn_t", "encoder.trunk", c1), *_trunk("encoder.gcn_s", second, c1)]
    for branch in "ts":
        parts += _layers(f"encoder.channel_{branch}", f"encoder.embed_{branch}", {"0": "first", "1": "norm", "3": "second"})
    for branch in "ts":
        layer = f"encoder.{branch}_encoder.layers.0"
        parts += [(f"{layer}.self_attn.in_proj_{kind}", f"encoder.refine_{branch}.attend.{kind}", ()) for kind in ("weight", "bias")]
        parts += _layers(layer, f"encoder.refine_{branch}", TRANSFORMER)
    for theirs, mine in (("t_proj", "project_t"), ("s_proj", "project_s"), ("i_proj", "project_g")):
        parts += _layers(theirs, mine, {"0": "first", "2": "second"})
    return [Slice(official, name, index, _published_shape(official, ours[name][index])) for official, name, index in parts]


def _query(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The query encoder's tensors without prefix."""
    state = {}
    for name, tensor in state_dict.items():
        prefix = next((p for p in PREFIXES if name.startswith(p)), "")
        state[name.removeprefix(prefix)] = tensor
    return state


def _empty(state: Mapping[str, Tensor], heads: int) -> SCDNet:
    """SCD-Net of the sizes that the tensors have."""
    sizes = {}
    for size, (name, axis) in SIZES.items():
        if name not in state:
            raise ValueError(f"tensor {name} is missing; give the state dict of SCD-Net's pretraining (encoder_q with projectors)")
        if state[name].ndim <= axis:
            raise ValueError(f"tensor {name} is {tuple(state[name].shape)}, too few axes for SCD-Net's {size}")
        sizes[size] = state[name].shape[axis]
    if sizes["width"] % heads:
        raise ValueError(f"width {sizes['width']} of encoder.channel_t is not divisible by heads={heads}; give the number it had")
    config = SCDNetConfig(c1=sizes["c1"], width=sizes["width"], out=sizes["out"], heads=heads)
    return SCDNet(config, by_joints(sizes["joints"]), seed=0)


def _trunk(theirs: str, ours: str, c1: int) -> Iterator[Part]:
    yield from _norm(f"{theirs}.data_bn", f"{ours}.norm")
    for i, channels in enumerate((c1, 4 * c1, c1)):
        yield from _block(f"{theirs}.l{i + 1}", f"{ours}.blocks.{i}", channels, projected=i > 0)


def _block(theirs: str, ours: str, channels: int, projected: bool) -> Iterator[Part]:
    yield from _graph_unit(f"{theirs}.gcn1", f"{ours}.graph")
    yield from _temporal_unit(f"{theirs}.tcn1.branches", f"{ours}.temporal", channels // 4)
    if projected:
        yield from _layer(f"{theirs}.residual.conv", f"{ours}.residual")
        yield from _norm(f"{theirs}.residual.bn", f"{ours}.norm_residual")


def _graph_unit(theirs: str, ours: str) -> Iterator[Part]:
    yield f"{theirs}.PA", f"{ours}.topology", ()
    yield f"{theirs}.alpha", f"{ours}.strength", ()
    for k in range(SUBSETS):
        places: dict[str, tuple[str, Index]] = {
            "conv1": ("relation", (0, k)),
            "conv2": ("relation", (1, k)),
            "conv3": ("value", (slice(None), k)),
            "conv4": ("refine", (k,)),
        }
        for conv, (name, index) in places.items():
            for kind in ("weight", "bias"):
                yield f"{theirs}.convs.{k}.{conv}.{kind}", f"{ours}.{name}_{kind}", index
    yield from _layer(f"{theirs}.down.0", f"{ours}.skip")
    yield from _norm(f"{theirs}.down.1", f"{ours}.norm_skip")
    yield from _norm(f"{theirs}.bn", f"{ours}.norm")


def _temporal_unit(theirs: str, ours: str, quarter: int) -> Iterator[Part]:
    for branch in range(4):
        own: Index = (slice(branch * quarter, (branch + 1) * quarter),)
        yield from _layer(f"{theirs}.{branch}.0", f"{ours}.entry", own)
        yield from _norm(f"{theirs}.{branch}.1", f"{ours}.norm_entry", own)
        if branch < 2:
            yield f"{theirs}.{branch}.3.conv.weight", f"{ours}.kernel", (branch,)
            yield f"{theirs}.{branch}.3.conv.bias", f"{ours}.kernel_bias", (branch,)
            yield from _norm(f"{theirs}.{branch}.3.bn", f"{ours}.norm_exit", own)
        if branch == 2:
            yield from _norm(f"{theirs}.{branch}.4", f"{ours}.norm_exit", own)


def _layer(theirs: str, ours: str, index: Index = ()) -> Iterator[Part]:
    for kind in ("weight", "bias"):
        yield f"{theirs}.{kind}", f"{ours}.{kind}", index


def _norm(theirs: str, ours: str, index: Index = ()) -> Iterator[Part]:
    for kind in ("weight", "bias", "running_mean", "running_var"):
        yield f"{theirs}.{kind}", f"{ours}.{kind}", index
    yield f"{theirs}.num_batches_tracked", f"{ours}.num_batches_tracked", ()


def _layers(theirs: str, ours: str, names: Mapping[str, str]) -> Iterator[Part]:
    for their_name, our_name in names.items():
        yield from _layer(f"{theirs}.{their_name}", f"{ours}.{our_name}")


def _published_shape(official: str, ours: Tensor) -> tuple[int, ...]:
    """Convolutions of the trunks keep their kernel axes (time, joints) even where they are 1."""
    convolution = ".gcn_" in official and official.endswith("weight") and ours.ndim > 1
    return (*ours.shape, *[1] * (4 - ours.ndim)) if convolution else tuple(ours.shape)
