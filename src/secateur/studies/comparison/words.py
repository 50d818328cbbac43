"""What a comparison of prunings says in words: the summary, the cards, the captions, and how it was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.lab.blocks import Card
from secateur.lab.sections import mean, pick
from secateur.lab.study import Results
from secateur.studies.comparison.options import METHODS

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["cards", "method_caption", "notes", "summary"]


def summary(pruned: DataFrame, trained: DataFrame, dense: DataFrame) -> list[str]:
    if not len(trained):
        return [
            "The unpruned networks are not there, so nothing can be said of what pruning costs.",
            _cut_words(pruned),
        ]
    base = mean(trained, "accuracy")
    words = [f"Unpruned, the networks reach a mean test accuracy of {base:.4f} (loss {mean(trained, 'loss'):.4f})."]
    for method in ("weight", "neuron"):
        found = [
            s
            for s in sorted(set(pruned["sparsity"]))
            if mean(pick(pruned, method=method, sparsity=s), "accuracy") >= base - 0.01
        ]
        if method in set(pruned["method"]):
            most = f"up to {100 * max(found):.4g} % of them" if found else "at none of the sparsities tried"
            words.append(
                f"Removing {method}s by magnitude, globally and without retraining, costs at most one point {most}."
            )
    return [" ".join(words), _cut_words(pruned), *_dense_words(pruned, dense)]


def _dense_words(pruned: DataFrame, dense: DataFrame) -> list[str]:
    if not len(dense) or "accuracy" not in dense:
        return []
    own = dense[dense["accuracy"].notna()]
    parts = [
        f"{mean(group, 'accuracy'):.4f} at the widths of {method} with {100 * sparsity:.4g} % removed "
        f"(cut and not retrained: {mean(pick(pruned, method=method, sparsity=sparsity), 'accuracy'):.4f})"
        for (method, sparsity), group in own.groupby(["method", "sparsity"], sort=False)
    ]
    return (
        [f"Small networks that were trained from scratch, as long as the large ones, reach {'; '.join(parts)}."]
        if parts
        else []
    )


def _cut_words(pruned: DataFrame) -> str:
    if "cut_parameters" not in pruned:
        return ""
    really = pruned[pruned["cut_parameters"].notna()]
    worst = float(really["cut_difference"].max())
    half = pick(really, method="neuron", sparsity=0.5)
    words = f"{len(really)} neuron-pruned networks were really cut; on all test images they differ from the masked ones by at most {worst:.1e} (relative)."
    if len(half):
        words += (
            f" With half of the neurons cut, {100 * mean(half, 'parameters_removed'):.0f} % of the parameters are gone and a "
            f"batch of 256 takes 1/{mean(half, 'speedup_cut_256'):.1f} of the time; the masked network is no faster "
            f"({mean(half, 'speedup_masked_256'):.2f}×)."
        )
    return words


def cards(pruned: DataFrame, trained: DataFrame) -> list[Card]:
    cards = [Card("unpruned accuracy", f"{mean(trained, 'accuracy'):.4f}", f"test set, {len(trained)} seeds")]
    for method in ("weight", "neuron"):
        half = pick(pruned, method=method, sparsity=0.5)
        if len(half):
            drop = 100 * (mean(half, "accuracy") - mean(trained, "accuracy"))
            cards.append(
                Card(
                    f"50 % of {method}s removed",
                    f"{drop:+.2f} points".replace("-", "−"),
                    "global magnitude, no retraining",
                )
            )
    fifth = pick(pruned, method="neuron per layer", sparsity=0.5)
    if len(fifth) and "speedup_cut_256" in fifth:
        cards.append(
            Card(
                "cut, half of each layer",
                f"{mean(fifth, 'speedup_cut_256'):.1f}× faster",
                f"accuracy {mean(fifth, 'accuracy'):.4f}, batch 256, one thread",
            )
        )
    return cards


def method_caption(method: str) -> str:
    """Return the caption of a method's table.

    >>> method_caption("weight random")
    'Weights removed, at random, all layers pooled; not retrained.'
    """
    unit, criterion, scope = METHODS[method]
    name = {
        "magnitude": "lowest L2 norm of incoming weights" if unit == "channels" else "lowest magnitude",
        "random": "at random",
    }[criterion]
    where = {"global": "all layers pooled", "layer": "in each layer alone"}[scope]
    what = "neurons" if unit == "channels" else "weights"
    return f"{what.capitalize()} removed, {name}, {where}; not retrained."


def notes(results: Results) -> list[str]:
    o = results.options
    return [
        f"Each network ({o['model']}) is trained for {o['epochs']} epochs of Adam (learning rate 0.001, batch {o['batch_size']}); the last "
        f"{o['validation']} training images are the validation set, and the weights of the epoch with the lowest "
        "validation loss are kept. Pruning follows without retraining. Test images are used for reporting only: no choice was made on them.",
        "Weight pruning pools the entries of the hidden layers' weight matrices. Neuron pruning ranks the hidden neurons by the L2 norm "
        "of their incoming weights; the output layer is kept. Random pruning is the control: the same numbers, chosen blindly.",
        "A masked network has zeros where something was removed and keeps its shapes, so it is neither smaller nor faster. "
        "A cut network is a smaller one; before it is measured, its outputs on all test images are compared with the masked network's.",
    ]
