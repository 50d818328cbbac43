"""Distillation by what the outputs are: classes, yes or no, embeddings, sequences, numbers, and several at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.train import Distillation, distill
from secateur.train.matching import MATCHES, Matched, match_by_kind, soft_binary, soft_cross_entropy
from secateur.types import InputError, UnknownNameError

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
Y = torch.randint(4, (64,), generator=torch.Generator().manual_seed(1))


def net(ending: nn.Module, seed: int = 0, width: int = 8, out: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, out), ending)


class Normalised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class Heads(nn.Module):
    """Class probabilities, numbers of a small scale, and a feature that none should weigh by its size."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.classes, self.box = nn.Linear(5, 16), nn.Linear(16, 3), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.body(x).relu()
        return self.classes(x).softmax(1), {"box": 0.01 * self.box(x), "size": 1000 * x.mean(1, keepdim=True)}


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (nn.Softmax(1), "probabilities"),
        (nn.LogSoftmax(1), "logits"),
        (nn.Sigmoid(), "binary_probabilities"),
        (Normalised(), "embeddings"),
        (nn.Identity(), "any"),
        (nn.Hardsigmoid(), "any"),
    ],
)
def test_outputs_are_known_by_their_values(ending: nn.Module, kind: str) -> None:
    teacher, student = net(ending, 1), net(ending)
    assert match_by_kind("auto", 4.0, lambda: teacher(X), None, "cross_entropy").kinds == (kind,)
    before = (student(X) - teacher(X)).abs().mean()
    distill(student, teacher, X, epochs=150, lr=0.01)
    assert (student(X) - teacher(X)).abs().mean() < 0.3 * before


@pytest.mark.parametrize(
    ("answers", "targets", "loss", "kind"),
    [
        (torch.randn(8, 4), torch.zeros(8, dtype=torch.long), "cross_entropy", "logits"),
        (torch.rand(8, 4), torch.zeros(8, dtype=torch.long), "cross_entropy", "logits"),
        (torch.randn(8, 4), torch.zeros(8, 4), "bce", "binary_logits"),
        (torch.randn(8, 4), None, "bce", "binary_logits"),
        (torch.rand(8, 4), torch.zeros(8, 4), "mse", "numbers"),
        (torch.rand(8, 4), None, "l1", "numbers"),
        (torch.randn(8, 1), torch.zeros(8), lambda outputs, targets: outputs.mean(), "numbers"),
        (torch.randn(8, 4), torch.zeros(8, dtype=torch.long), lambda outputs, targets: outputs.mean(), "logits"),
        ({"logits": torch.randn(8, 4)}, None, "cross_entropy", "logits"),
        ({"logits": torch.randn(8, 1)}, None, "cross_entropy", "numbers"),
        ({"hidden": torch.randn(8, 4)}, None, "cross_entropy", "any"),
        (torch.randn(8), None, "cross_entropy", "numbers"),
        (torch.randn(8, 5, 3), torch.zeros(8, 5, dtype=torch.long), "sequence_cross_entropy", "logits"),
    ],
)
def test_the_loss_of_the_targets_says_what_outputs_are(answers: Any, targets: Any, loss: Any, kind: str) -> None:
    assert match_by_kind("auto", 4.0, lambda: answers, targets, loss).kinds == (kind,)


def test_the_binary_loss_by_hand() -> None:
    """At T = 2 the logit 2 ln 3 is a yes of 3/4, and 0 one of 1/2; T² = 4 times the KL of the two."""
    teacher, student = 2 * torch.tensor([[3.0]]).log(), torch.zeros(1, 1)
    kl = 0.75 * torch.log(torch.tensor(0.75 / 0.5)) + 0.25 * torch.log(torch.tensor(0.25 / 0.5))
    assert soft_binary(student, teacher, 2.0).item() == pytest.approx(4 * kl.item())


def test_probabilities_are_matched_as_the_logits_that_they_come_from() -> None:
    ours, theirs = torch.randn(6, 4), torch.randn(6, 4)
    by_logits = Matched(("logits",), 3.0)(ours, theirs)
    assert torch.allclose(Matched(("probabilities",), 3.0)(ours.softmax(1), theirs.softmax(1)), by_logits, atol=1e-5)
    by_sigmoid = Matched(("binary_logits",), 3.0)(ours, theirs)
    assert torch.allclose(
        Matched(("binary_probabilities",), 3.0)(ours.sigmoid(), theirs.sigmoid()), by_sigmoid, atol=1e-5
    )


@pytest.mark.parametrize("kind", MATCHES)
@pytest.mark.parametrize("shape", [(6, 4), (6, 5, 4), (6, 4, 2, 3)])
def test_every_kind_is_nothing_at_the_teacher_and_more_elsewhere(kind: str, shape: tuple[int, ...]) -> None:
    answers, other = torch.rand(2, *shape).clamp(0.05, 0.95)
    match = Matched((kind,), 2.0)
    answers.requires_grad_()
    at = match(answers, answers.detach())
    (gradient,) = torch.autograd.grad(at, answers)
    assert at.item() == pytest.approx(0.0, abs=1e-5)
    assert float(gradient.abs().max()) < 1e-5
    assert match(other, answers.detach()).item() > 1e-3


def test_classes_of_sequences_lie_last_and_of_pictures_first() -> None:
    ours, theirs = torch.randn(2, 6, 5, 3)
    by_position = torch.stack([soft_cross_entropy(ours[:, t], theirs[:, t], 2.0) for t in range(5)]).mean()
    assert torch.allclose(Matched(("logits",), 2.0)(ours, theirs), by_position, atol=1e-6)
    picture = Matched(("logits",), 2.0)(ours.movedim(2, 1)[..., None], theirs.movedim(2, 1)[..., None])
    assert torch.allclose(picture, by_position, atol=1e-6)
    labels = torch.zeros(6, 3, dtype=torch.long)  # the cross-entropy has classes in dimension 1 always
    assert match_by_kind("auto", 2.0, lambda: theirs, labels, "cross_entropy").dim == 1


def test_sequences_are_distilled() -> None:
    def tagger(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))

    x = torch.randn(16, 7, 5, generator=torch.Generator().manual_seed(0))
    teacher, student = tagger(1), tagger(0)
    distill(student, teacher, x, match="logits", epochs=300, lr=0.02)
    assert (student(x).softmax(2) - teacher(x).softmax(2)).abs().mean() < 0.02


def test_sequences_with_labels_have_a_loss_of_their_name() -> None:
    torch.manual_seed(0)
    teacher, student = nn.Linear(5, 3), nn.Linear(5, 3)
    x = torch.randn(16, 3, 5, generator=torch.Generator().manual_seed(0))  # as many positions as classes
    labels = x[..., :3].argmax(2)
    with pytest.raises(InputError, match="'sequence_cross_entropy' where the last dimension is the classes"):
        sc.fit(teacher, (x[:, :2], labels[:, :2]), epochs=1)
    history = sc.fit(teacher, (x, labels), (x, labels), epochs=200, lr=0.05, loss="sequence_cross_entropy")
    assert history[-1].validation_loss == pytest.approx(
        F.cross_entropy(teacher(x).flatten(0, 1), labels.flatten()).item()
    )
    distill(student, teacher, (x, labels), loss="sequence_cross_entropy", epochs=300, lr=0.05)
    assert bool((student(x).argmax(2) == teacher(x).argmax(2)).float().mean() > 0.95)
    with pytest.raises(InputError, match="label 3 is out of range for 3 classes"):
        sc.fit(teacher, (x, labels + 1), epochs=1, loss="sequence_cross_entropy")


def test_several_outputs_weigh_alike() -> None:
    teacher, student = Heads(1), Heads(0)
    match = match_by_kind("auto", 4.0, lambda: teacher(X), None, "cross_entropy")
    assert match.kinds == ("probabilities", "any", "numbers")
    constant = [x.detach().mean(0, keepdim=True).expand_as(x) for x in (teacher(X)[0], *teacher(X)[1].values())]
    assert match((constant[0], constant[1:]), teacher(X)).item() == pytest.approx(3.0, rel=1e-3)
    distill(student, teacher, X, epochs=300, lr=0.02)
    for ours, theirs in zip(
        (student(X)[0], *student(X)[1].values()), (teacher(X)[0], *teacher(X)[1].values()), strict=True
    ):
        assert F.mse_loss(ours, theirs) < 0.1 * theirs.var()


def test_several_outputs_with_a_loss_of_ones_own() -> None:
    def loss(outputs: Any, targets: Any) -> Tensor:
        return F.nll_loss(outputs[0].log(), targets["label"]) + F.mse_loss(outputs[1]["box"], targets["box"])

    data = [(X, {"label": Y % 3, "box": torch.zeros(64, 2)})]
    teacher, student = Heads(1), Heads(0)
    history = distill(student, teacher, data, data, loss=loss, epochs=5, weight=0.5)
    assert history[-1].validation_loss is not None
    assert history[-1].validation_loss == pytest.approx(min(r.validation_loss or 9 for r in history))
    with pytest.raises(InputError, match="the model returned a tuple, not one tensor"):
        distill(student, teacher, [(X, Y % 3)], epochs=1)


def test_a_function_of_both_outputs() -> None:
    teacher, student = Heads(1), Heads(0)

    def only_classes(outputs: Any, answers: Any) -> Tensor:
        return F.mse_loss(outputs[0], answers[0])

    distill(student, teacher, X, match=only_classes, epochs=300, lr=0.02)
    assert F.mse_loss(student(X)[0], teacher(X)[0]) < 1e-3
    assert F.mse_loss(student(X)[1]["size"], teacher(X)[1]["size"]) > 1.0


def test_a_yes_or_no_is_distilled_with_its_labels() -> None:
    teacher, student = net(nn.Identity(), 1, out=1), net(nn.Identity(), out=1)
    labels = (teacher(X) > 0).float()
    distill(student, teacher, (X, labels), loss="bce", epochs=200, lr=0.02)
    assert (student(X).sigmoid() - teacher(X).sigmoid()).abs().mean() < 0.05


def test_hints_of_a_cut_model_by_the_channels_that_are_left() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
    )
    x = torch.randn(32, 1, 8, 8)
    first = sc.prune(teacher, x[:1], "l1", 0.5, scope="layer", latency=False)
    result = sc.prune(first.model, x[:1], "l1", 0.3, scope="layer", latency=False).after(first)
    hints = result.channels_left("0", "1", "3", "6")
    assert hints["6"] is None
    for name in ("0", "1", "3"):
        left = hints[name]
        assert left is not None
        assert len(left) == len(result.model.get_submodule(name).bias)
    # Before any training the first layer does what the teacher's does.
    assert torch.equal(result.model[0](x), teacher[0](x)[:, hints["0"]])
    before = F.mse_loss(result.model[:4].eval()(x), teacher[:4].eval()(x)[:, hints["3"]])
    distill(result.model, teacher, x, hints={"3": hints["3"]}, hint_weight=10.0, epochs=60, lr=0.01, freeze_norms=True)
    assert F.mse_loss(result.model[:4].eval()(x), teacher[:4].eval()(x)[:, hints["3"]]) < 0.5 * before
    with pytest.raises(UnknownNameError, match="unknown layer with weights '2'"):
        result.channels_left("2")


def test_hints_of_sequences_lie_in_their_last_dimension() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner, self.out = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.inner(x).relu())

    teacher, x = Tagger(), torch.randn(8, 8, 5)
    result = sc.prune(teacher, x[:1], "l1", 0.5, latency=False)
    hints = result.channels_left("inner")
    history = distill(result.model, teacher, x, match="logits", hints=hints, hint_weight=1e6, epochs=1, lr=1e-9)
    assert history[0].train_loss < 1e-2 * 1e6  # the hint is nothing: the layer is the teacher's
    assert torch.allclose(result.model.inner(x), teacher.inner(x)[..., hints["inner"]], atol=1e-5)


def test_what_cannot_be_matched() -> None:
    teacher = net(nn.Identity(), 1)
    with pytest.raises(
        UnknownNameError, match="unknown match of a student and its teacher 'logit'; did you mean 'logits'"
    ):
        distill(net(nn.Identity()), teacher, X, match="logit", epochs=1)
    with pytest.raises(UnknownNameError, match="unknown match"):
        Distillation(teacher, match="auto")
    with pytest.raises(InputError, match=r"the teacher answers in the shape \(64, 4\), the model in \(64, 3\)"):
        distill(net(nn.Identity(), out=3), teacher, X, epochs=1)
    with pytest.raises(InputError, match="teacher: the model does not take inputs of shape"):
        distill(net(nn.Identity()), nn.Linear(3, 3), X, epochs=1)

    class Counting(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x).argmax(1)

    with pytest.raises(InputError, match="without a tensor of numbers"):
        distill(net(nn.Identity()), Counting(5, 4), X, epochs=1)
