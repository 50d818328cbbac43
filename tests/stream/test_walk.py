"""The walk over the blocks of a language model."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.criteria import Wanda
from secateur.measure import perplexity
from secateur.models.decoder import Decoder, decoder
from secateur.solvers import SparseGPT
from secateur.stream import (
    CutUnits,
    SparsifyWeights,
    block_container,
    block_influence,
    block_losses,
    drop_blocks,
    plan,
    step_within,
    walk,
)
from secateur.train import Recovery, TrainOptions
from secateur.types import InputError, UnknownNameError


def text(sequences: int, length: int = 20, seed: int = 1) -> torch.Tensor:
    return torch.randint(11, (sequences, length), generator=torch.Generator().manual_seed(seed))


def masked(model: Decoder, keep: dict[str, torch.Tensor]) -> Decoder:
    """The model with the down-projections' columns of removed neurons as zeros, by hand."""
    copy = decoder(blocks=len(model.layers))
    copy.load_state_dict(model.state_dict())
    for number, layer in enumerate(copy.layers):
        layer.down.weight.data[:, ~keep[f"layers.{number}.gate"]] = 0
    return copy


def test_the_cut_model_is_the_masked_one_and_the_model_is_left_as_it_is() -> None:
    model, tokens = decoder(blocks=3), text(4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    walked = walk(model, tokens, CutUnits(0.25))
    assert {n: int(m.sum()) for n, m in walked.keep.items()} == {f"layers.{i}.gate": 18 for i in range(3)}
    assert torch.allclose(walked.model(tokens), masked(model, dict(walked.keep))(tokens), atol=1e-5)
    assert walked.model.layers[1].down.in_features == 18
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_neurons_that_go_add_least_to_the_stream_of_the_cut_model() -> None:
    """Scores by hand: the activations' root mean square in the model whose blocks before are cut, times the column's norm."""
    model, tokens = decoder(blocks=2), text(4)
    walked = walk(model, tokens, CutUnits(0.25))
    seen: list[torch.Tensor] = []
    cut_first = masked(model, {**walked.keep, "layers.1.gate": torch.ones(24, dtype=torch.bool)})
    cut_first.layers[1].down.register_forward_pre_hook(lambda _m, args: seen.append(args[0].detach()))
    cut_first(tokens)
    scores = seen[0].square().mean((0, 1)).sqrt() * model.layers[1].down.weight.norm(dim=0)
    assert set((~walked.keep["layers.1.gate"]).nonzero().flatten().tolist()) == set(scores.argsort()[:6].tolist())


def test_repair_aims_at_the_stream_of_the_uncut_model() -> None:
    """The refitted down-projection of the second block, by normal equations that are written out."""
    model, tokens = decoder(blocks=2), text(8)
    walked = walk(model, tokens, CutUnits(0.25, repair="stream", ridge=0.1))
    kept, small = walked.keep["layers.1.gate"], walked.model
    tensors: dict[str, torch.Tensor] = {}
    for name, net in (("dense", model), ("small", small)):
        net.layers[1].register_forward_hook(lambda _m, _a, out, name=name: tensors.update({name: out.detach()}))
        net(tokens)
    small.layers[1].down.register_forward_pre_hook(lambda _m, args: tensors.update(x=args[0].detach()))
    small(tokens)
    x = tensors["x"].flatten(0, 1).double()
    old, new = model.layers[1].down.weight[:, kept].double(), small.layers[1].down.weight.double()
    missing = (tensors["dense"] - tensors["small"]).flatten(0, 1).double() + x @ (new - old).T
    gram = x.T @ x
    load = 0.1 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    change = torch.linalg.solve(gram + load, x.T @ missing).T
    assert torch.allclose(new - old, change, atol=1e-5)


def biased(blocks: int = 2) -> Decoder:
    """A decoder whose down-projections have biases, with activations that are not centred."""
    model = decoder(blocks=blocks)
    for layer in model.layers:
        down, layer.down = layer.down, nn.Linear(24, 16)
        layer.down.load_state_dict({"weight": down.weight, "bias": torch.zeros(16)})
        layer.gate.weight.data.mul_(4)
    return model


def test_neurons_that_vary_least_go_and_a_bias_stands_for_their_mean() -> None:
    """FLAP's score and bias by hand, for one block."""
    model, tokens = biased(1), text(6)
    walked = walk(model, tokens, CutUnits(0.25, "fluctuation", "bias"), container="layers")
    seen: list[torch.Tensor] = []
    model.layers[0].down.register_forward_pre_hook(lambda _m, args: seen.append(args[0].detach().flatten(0, 1)))
    model(tokens)
    x, down = seen[0], model.layers[0].down
    scores = x.var(0, correction=0) * down.weight.square().sum(0)
    kept = walked.keep["layers.0.gate"]
    assert set((~kept).nonzero().flatten().tolist()) == set(scores.argsort()[:6].tolist())
    small = walked.model.layers[0].down
    assert torch.equal(small.weight, down.weight[:, kept])
    assert torch.allclose(small.bias, down.bias + down.weight[:, ~kept] @ x[:, ~kept].mean(0), atol=1e-5)


def test_a_bias_helps_and_is_refused_where_there_is_none() -> None:
    model, tokens = biased(), text(12)
    errors = [
        list(walk(model, tokens, CutUnits(0.5, "fluctuation", how)).history.errors.values())[-1]
        for how in (None, "bias", "stream")
    ]
    assert errors[2] < errors[1] < errors[0]
    with pytest.raises(InputError, match=r"'block.down.weight' lost inputs, and its layer has no bias"):
        walk(decoder(), tokens, CutUnits(0.5, "fluctuation", "bias"))
    assert walk(decoder(), tokens, CutUnits(0.5, "fluctuation", "stream")).model.layers[0].gate.out_features == 12


def test_repair_brings_the_stream_nearer_than_none_and_than_layers_by_themselves() -> None:
    model, tokens = decoder(blocks=4), text(24)
    errors = {
        how: list(walk(model, tokens, CutUnits(0.5, repair=how)).history.errors.values())[-1]
        for how in (None, "layer", "stream")
    }
    assert errors["stream"] < errors["layer"] < errors[None]


@pytest.mark.parametrize("criterion", ["output-norm", "elimination", "l2", "wanda", partial(Wanda, reduce="max")])
def test_any_criterion_takes_neurons_and_whole_groups_of_heads(criterion: object) -> None:
    tokens = text(4)
    step = CutUnits({"neuron": 0.25, "head": 0.5}, criterion, "stream")  # type: ignore[arg-type]
    small = walk(decoder(), tokens, step).model
    assert small.layers[0].k.out_features == 4
    assert small.layers[1].q.out_features == 8
    assert small.layers[1].gate.out_features == 18
    assert small(tokens).shape == (4, 20, 11)


def test_dimensions_that_the_code_does_not_let_go_are_no_units() -> None:
    """This decoder reads queries, keys and values by one size of a head, which is the attention's temperature, too."""
    with pytest.raises(UnknownNameError, match="unknown unit or site of a block 'head dimension'"):
        walk(decoder(), text(4), CutUnits({"head dimension": 0.5}))


@pytest.mark.parametrize("budget", [{"parameters": 0.8}, {"bytes": 0.85, "macs": 0.7}])
def test_a_budget_is_met_by_as_little_as_can_be(budget: dict[str, float]) -> None:
    model, asked = decoder(), CutUnits({"neuron": 0.5, "head": 0.5})
    step = step_within(model, budget, asked, length=20)
    planned = plan(model, step, length=20)
    assert all(planned.share(name) <= limit for name, limit in budget.items())
    more = plan(model, step.scaled(0.9), length=20)
    assert any(more.share(name) > limit for name, limit in budget.items())
    small = walk(model, text(4), step).model
    assert sum(p.numel() for p in small.parameters()) == planned.after.parameters
    with pytest.raises(InputError, match=r"parameters=0\.\d+ of the model is left"):
        step_within(model, {"parameters": 0.1}, asked, length=20)
    with pytest.raises(UnknownNameError, match="budget of a walk"):
        step_within(model, {"latency": 0.5}, length=20)


def test_weights_are_solved_and_masked_on_the_walk() -> None:
    model, tokens = decoder(), text(16)
    errors = {}
    for name, by in {"l2": "l2", "wanda": "wanda", "sparse-gpt": SparseGPT}.items():
        walked = walk(model, tokens, SparsifyWeights(0.5, by))  # type: ignore[arg-type]
        errors[name] = list(walked.history.errors.values())[-1]
        for layer in (walked.model.layers[0].q, walked.model.layers[1].down):
            assert float((layer.weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert errors["sparse-gpt"] < errors["wanda"] < errors["l2"]
    pattern = walk(model, tokens, SparsifyWeights(None, "wanda", "2:4")).model
    assert bool(((pattern.layers[0].q.weight.view(-1, 4) == 0).sum(1) == 2).all())


def test_sequences_of_different_lengths_are_filled_up() -> None:
    tokens = text(3)
    parts = [tokens[0], tokens[1, :12], tokens[2]]
    walked = walk(decoder(), parts, CutUnits(0.25, repair="stream"))
    assert walked.model.layers[0].down.in_features == 18
    mask = torch.arange(20) < torch.tensor([[20], [12], [20]])
    for filler in (0, 7):
        filled = walk(decoder(), tokens.where(mask, torch.tensor(filler)), CutUnits(0.25, repair="stream"), mask=mask)
        assert torch.equal(filled.model(tokens), walked.model(tokens)), "what fills up is scored and refitted as text"


def test_a_cut_that_multiplies_the_perplexity_is_said_loudly() -> None:
    model, tokens = decoder(blocks=1), text(2)
    with torch.no_grad():  # a model whose MLP decides, and that is sure of what it says
        model.head.weight.mul_(20)
        model.layers[0].down.weight.mul_(100)
        held_out = tokens[:, :1]
        for _ in range(19):
            held_out = torch.cat([held_out, model(held_out)[:, -1:].argmax(-1)], 1)
    with pytest.warns(UserWarning, match="perplexity on held-out text went from .* Try: repair"):
        walked = walk(model, tokens, CutUnits(0.9), held_out=held_out, container="layers")
    assert walked.history.after is not None
    assert walked.history.before is not None
    assert walked.history.after > 1.5 * walked.history.before


def test_a_recovery_in_the_same_call_makes_the_cut_model_better() -> None:
    model, tokens, held_out = decoder(), text(24), text(6, seed=3)
    recovery = Recovery(TrainOptions(epochs=8, batch_size=4, lr=5e-3), weight=0.5)
    walked = walk(model, tokens, CutUnits(0.5), recover=recovery, held_out=held_out)
    assert walked.history.untrained is not None
    assert walked.history.after is not None
    assert walked.history.untrained == pytest.approx(perplexity(walk(model, tokens, CutUnits(0.5)).model, held_out))
    assert walked.history.after == pytest.approx(perplexity(walked.model, held_out))
    assert len(walked.history.recovery) == 8
    assert walked.history.recovery[-1].train_loss < walked.history.recovery[0].train_loss


def test_what_cannot_be_walked_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match="name the container"):
        walk(nn.Sequential(nn.Linear(2, 2)), text(1))
    with pytest.raises(UnknownNameError, match="unknown unit or site of a block 'filter'"):
        walk(decoder(), text(1), CutUnits({"filter": 0.5}))
    with pytest.raises(UnknownNameError, match="criterion"):
        walk(decoder(), text(1), CutUnits(0.5, "best"))
    with pytest.raises(InputError, match="either a sparsity or a pattern"):
        SparsifyWeights(0.5, "l2", "2:4")


def test_the_container_of_blocks_is_the_outermost() -> None:
    assert block_container(decoder()) == "layers"
    assert block_container(nn.Sequential(nn.Embedding(3, 16), nn.ModuleDict({"m": decoder()}))) == "1.m.layers"


def test_a_block_like_another_is_known_by_its_inputs_and_outputs_and_by_the_loss() -> None:
    model, tokens = decoder(blocks=4), text(4)
    with torch.no_grad():  # the third block passes all on as it is
        model.layers[2].down.weight.zero_()
        model.layers[2].o.weight.zero_()
    influence, losses = block_influence(model, tokens), block_losses(model, tokens)
    assert min(influence, key=influence.__getitem__) == "layers.2"
    assert influence["layers.2"] == pytest.approx(0, abs=1e-6)
    assert losses["layers.2"] == pytest.approx(0, abs=1e-6)
    small = drop_blocks(model, tokens, 1, "influence")
    assert small.history.removed == ("layers.2",)
    assert torch.allclose(small.model(tokens), model(tokens), atol=1e-6)
    assert [*dict(small.model.layers.named_children())] == ["0", "1", "2"]
    assert len(model.layers) == 4


def test_blocks_go_one_after_the_other_by_the_loss_without_them() -> None:
    model, tokens = decoder(blocks=3, seed=2), text(4)
    small = drop_blocks(model, tokens, 2)
    assert small.history.removed[0] == min(small.history.scores, key=small.history.scores.__getitem__)
    again = block_losses(model, tokens, without=small.history.removed[:1])
    assert small.history.removed[1] == min(again, key=again.__getitem__)
    with pytest.raises(InputError, match="one stays at least"):
        drop_blocks(model, tokens, 3)


def test_the_public_face_has_the_room() -> None:
    assert sc.stream.walk is walk
