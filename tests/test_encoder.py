"""The encoder against values of the published code, its sizes, its start values, and what its two stems share."""

import pytest
import torch
from torch import Tensor, nn

from acsar.dense import Dense, dense, on_cpu
from acsar.encoder import Encoder, ProjectedEncoder, TransformerLayer, initialise
from acsar.interop import slices
from acsar.scdnet import SCDNet, SCDNetConfig
from acsar.skeleton import NTU25, UCLA20
from tests.filled import assert_values, fill, inp


@pytest.fixture(scope="module")
def full_size() -> SCDNet:
    return SCDNet(SCDNetConfig(queue=8), NTU25, seed=0)


def test_parameter_counts(full_size: SCDNet) -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    query = full_size.query
    body = query.encoder
    assert count(query) == 92_017_840
    assert count(body) == 74_447_664
    assert count(body.embed_t) == 10_756_096
    assert count(body.embed_s) == 12_591_104
    assert count(body.refine_t) == count(body.refine_s) == 25_186_304
    assert count(query.project_t) == count(query.project_s) == 4_458_624
    assert count(query.project_g) == 8_652_928
    assert sum(p.numel() for p in full_size.parameters()) == 184_035_680
    assert sum(p.numel() for p in full_size.parameters() if p.requires_grad) == 92_017_840


def test_initialisation(full_size: SCDNet) -> None:
    body = full_size.query.encoder
    attend = body.refine_t.attend.weight
    assert abs(attend.abs().max().item() / (6 / (2048 + 6144)) ** 0.5 - 1) < 1e-3
    assert not body.refine_t.attend.bias.any()
    assert not body.refine_t.mix.bias.any()
    assert abs(body.embed_s.first.bias.abs().max().item() * 64 - 1) < 0.01
    assert torch.all(body.embed_t.norm.weight == 1)
    assert not torch.equal(body.refine_t.widen.weight, body.refine_s.widen.weight)


def test_features_of_the_published_code(full_size: SCDNet) -> None:
    # The printed sums were made with weights rounded to float32 and a float64 forward pass.
    fill(full_size.query, [(part.official, part.name, part.index) for part in slices(full_size)], rounded=True)
    query = full_size.query.eval()
    with torch.no_grad():
        v_t, v_s = query.encoder(inp(2, 3, 64, 25, 2))
        z = query.project_t(v_t), query.project_s(v_s), query.project_g(torch.cat([v_t, v_s], 1))
    assert_values(v_t, 5.73522164e03, 8.03114711e03, [1.39010308, 1.40478866, 1.39529623, 1.38387835], 1.41515956)
    assert_values(v_s, 5.74061277e03, 8.04837844e03, [1.41475807, 1.41432756, 1.41339377, 1.41181912], 1.41155269)
    for part, total, squares in zip(z, (-2.62181806e-04, 2.48582012e-04, 5.25481086e-03), (8.24645342e-07, 9.42646687e-07, 3.69759589e-05)):
        assert float(part.sum()) == pytest.approx(total, rel=1e-4)
        assert float(part.square().sum()) == pytest.approx(squares, rel=1e-4)


def small(stem: str, skeleton: object = NTU25, dropout: float = 0.0) -> Encoder:
    encoder = Encoder(skeleton, stem, 8, 16, 2, dropout)
    initialise(encoder, torch.Generator().manual_seed(0))
    return encoder


def test_a_shared_stem_is_one_trunk() -> None:
    shared, split = small("shared"), small("split")
    trunk = sum(p.numel() for p in shared.trunk.parameters())
    assert sum(p.numel() for p in split.parameters()) - sum(p.numel() for p in shared.parameters()) == trunk
    split.trunk.load_state_dict(shared.trunk.state_dict())
    split.trunk_s.load_state_dict(shared.trunk.state_dict())
    split.load_state_dict(shared.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 25, 2, generator=torch.Generator().manual_seed(1))
    for one, other in zip(shared.eval()(x), split.eval()(x)):
        assert torch.equal(one, other)


def test_twenty_joints() -> None:
    v_t, v_s = small("split", UCLA20)(torch.randn(2, 3, 64, 20, 2, generator=torch.Generator().manual_seed(1)))
    assert v_t.shape == v_s.shape == (2, 16)


def test_transformer_layer_is_torchs() -> None:
    ours = TransformerLayer(16, 2, 0.0).double()
    theirs = nn.TransformerEncoderLayer(16, 2, 16, dropout=0.0, batch_first=True).double()
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": ours.attend.weight,
            "self_attn.in_proj_bias": ours.attend.bias,
            **{
                f"{name}.{kind}": getattr(part, kind)
                for name, part in [
                    ("self_attn.out_proj", ours.mix),
                    ("linear1", ours.widen),
                    ("linear2", ours.narrow),
                    ("norm1", ours.norm_attention),
                    ("norm2", ours.norm_feedforward),
                ]
                for kind in ("weight", "bias")
            },
        }
    )
    x = torch.randn(3, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ours(x), theirs(x), atol=1e-12)


def test_dropout_only_in_training() -> None:
    encoder = ProjectedEncoder(small("shared", dropout=0.5), 16, 8)
    x = torch.randn(2, 3, 64, 25, 2, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(encoder.train()(x)[0], encoder(x)[0])
    assert torch.equal(encoder.eval()(x)[0], encoder(x)[0])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 16 is not divisible by 3 heads"):
        TransformerLayer(16, 3, 0.0)


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7)])
def test_dense_is_linear_with_its_gradients(shape: tuple[int, ...]) -> None:
    layer = Dense(7, 4)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, requires_grad=True)
    grad = torch.randn(*shape[:-1], 4, generator=generator)
    assert on_cpu(x, layer.weight)

    def all_of(y: Tensor) -> list[Tensor]:
        return [y, *torch.autograd.grad(y, [x, layer.weight, layer.bias], grad)]

    for one, other in zip(all_of(dense(x, layer.weight, layer.bias)), all_of(nn.functional.linear(x, layer.weight, layer.bias))):
        assert torch.allclose(one, other, atol=1e-5)
    assert layer(x[:0]).shape == (0, *shape[1:-1], 4)
    assert layer.double()(x.double()).dtype == torch.float64
