"""Recovery of a cut language model by what the uncut one answers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from secateur.models.decoder import decoder
from secateur.stream import CutUnits, walk
from secateur.train import Recovery, TrainOptions, distill
from secateur.types import InputError


def text(sequences: int, length: int = 20, seed: int = 1) -> torch.Tensor:
    return torch.randint(11, (sequences, length), generator=torch.Generator().manual_seed(seed))


CALM = TrainOptions(epochs=6, batch_size=4, lr=3e-3)


def divergence(model: torch.nn.Module, original: torch.nn.Module, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        ours, theirs = (net(tokens)[:, :-1].log_softmax(-1).flatten(0, 1) for net in (model, original))
    return float(F.kl_div(ours, theirs, reduction="batchmean", log_target=True))


def test_the_cut_model_comes_nearer_to_the_uncut_one_on_text_it_has_not_seen() -> None:
    model, tokens, unseen = decoder(), text(32), text(8, seed=2)
    small = walk(model, tokens, CutUnits(0.5)).model
    before = divergence(small, model, unseen)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    history = Recovery(CALM)(small, model, tokens)
    assert divergence(small, model, unseen) < before / 2
    assert len(history) == 6
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_loss_is_the_divergence_at_the_tokens_that_count() -> None:
    """One step without a rate: the recorded loss is the mean over positions before tokens that count, by hand."""
    model, small = decoder(), decoder(seed=3)
    tokens = [text(1)[0], text(1, 12, seed=2)[0]]
    still = TrainOptions(epochs=1, batch_size=2, lr=1e-12, optimizer="sgd")
    loss = Recovery(still)(small, model, tokens)[0].train_loss
    padded = torch.stack([tokens[0], F.pad(tokens[1], (0, 8))])
    with torch.no_grad():
        ours, theirs = (net(padded).log_softmax(-1) for net in (small, model))
    apart = (theirs.exp() * (theirs - ours)).sum(-1)
    expected = torch.cat([apart[0, :19], apart[1, :11]]).mean()
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_an_attention_mask_says_which_answers_count_without_targets() -> None:
    class Named(torch.nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.net = decoder(seed=seed)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.net(input_ids)  # type: ignore[no-any-return]

    teacher, student, ids = Named(0), Named(3), text(2)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    options = TrainOptions(epochs=1, batch_size=2, lr=1e-12, optimizer="sgd")
    loss = distill(student, teacher, [batch], options=options, match="logits", temperature=1.0)[0].train_loss
    with torch.no_grad():
        ours, theirs = (net.net(ids).log_softmax(-1) for net in (student, teacher))
    apart = (theirs.exp() * (theirs - ours)).sum(-1)
    assert loss == pytest.approx(float(apart[mask.bool()].mean()), rel=1e-5)


def test_options_out_of_range_are_refused() -> None:
    for wrong in ({"weight": 2.0}, {"temperature": 0.0}, {"rank": 0}, {"options": 3}):
        with pytest.raises(InputError, match="Recovery"):
            Recovery(**wrong)  # type: ignore[arg-type]


def test_low_rank_changes_alone_are_trained_and_added_into_the_weights() -> None:
    pytest.importorskip("peft")
    model, tokens = decoder(), text(16)
    small = walk(model, tokens, CutUnits(0.5)).model
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    kinds = [type(module) for module in small.modules()]
    apart = divergence(small, model, tokens)
    Recovery(CALM, rank=2)(small, model, tokens)
    assert divergence(small, model, tokens) < apart
    assert [type(module) for module in small.modules()] == kinds
    assert all(parameter.requires_grad for parameter in small.parameters())
    after = small.state_dict()
    assert torch.equal(after["embedding.weight"], before["embedding.weight"])
    change = after["layers.0.down.weight"] - before["layers.0.down.weight"]
    assert 0 < torch.linalg.matrix_rank(change, tol=1e-5) <= 2
