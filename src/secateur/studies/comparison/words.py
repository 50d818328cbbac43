"""What a comparison of prunings says in words: the summary, the cards, the captions, and how it was done."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import TYPE_CHECKING

from secateur.data import is_local
from secateur.files import require
from secateur.lab.plan.study import Results
from secateur.lab.show.blocks import Card
from secateur.lab.show.sections import interval, mean, mean_card, pick, several
from secateur.lab.show.shares import ASKED
from secateur.lab.show.stats.columns import SHARE, range_of
from secateur.lab.show.words import counted, formatted, percent
from secateur.studies.comparison.options import METHODS, ONE_SHOT, Pruning, methods_of
from secateur.studies.kit.networks import grid
from secateur.studies.kit.parts import UNPRUNED, Part

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_NAMED = (
    "Weight pruning pools the entries of the hidden layers' weight matrices. Neuron pruning ranks the hidden neurons by the L2 norm "
    "of their incoming weights; the output layer is kept. Random pruning is the control: the same numbers, chosen blindly."
)

__all__ = ["beside", "cards", "method_caption", "notes", "words"]


def words(part: Part) -> list[str]:
    """Return what pruning and cutting cost and gain, and what small networks from scratch reach."""
    pruned = part.pruned
    if not len(pruned):
        return []
    return [
        *_untuned(part),
        *_cost(part, methods_of(part.options)),
        _really_cut(pruned),
        *_from_scratch(part),
    ]


def beside(part: Part, rows: DataFrame) -> Series[float]:
    """Return, for each row of pruned networks, the accuracy of the unpruned one of its seed that was trained as long."""
    methods, unpruned = methods_of(part.options), part.unpruned
    accuracies = {name: frame.set_index("seed")["accuracy"] for name, frame in unpruned.items()}
    names = [methods[label].unpruned for label in rows["method"]]
    values = [
        accuracies.get(name, accuracies.get(UNPRUNED, {})).get(seed, nan)
        for name, seed in zip(names, rows["seed"], strict=True)
    ]
    series: Series[float] = require("pandas", "lab").Series(values, index=rows.index, dtype=float)
    return series


def _untuned(part: Part) -> list[str]:
    """The warning that networks were fine-tuned and what they are held against was not."""
    methods, unpruned = methods_of(part.options), part.unpruned
    alone = [label for label in dict.fromkeys(part.pruned["method"]) if methods[label].unpruned not in unpruned]
    if not alone or not unpruned:
        return []
    return [
        f"WARNING: {', '.join(alone)}: these networks were fine-tuned, the unpruned ones were not, so their difference "
        "includes what fine-tuning does; run the study again, which trains unpruned ones as long."
    ]


def _cost(part: Part, methods: Mapping[str, Pruning]) -> list[str]:
    trained, pruned = part.trained, part.pruned
    if not len(trained):
        return ["The unpruned networks are not there, so nothing can be said of what pruning costs."]
    average = "a mean" if several(trained) else "a"
    sentences = [
        f"{name.capitalize()}, the network{'s reach' if len(rows) > 1 else ' reaches'} {average} test accuracy of "
        f"{formatted(mean(rows, 'accuracy'), '.4f')} (loss {formatted(mean(rows, 'loss'), '.4f')})."
        for name, rows in part.unpruned.items()
    ]
    for label, method in methods.items():
        if label not in set(pruned["method"]) or (label in METHODS and label not in ("weight", "neuron")):
            continue
        base = mean(part.unpruned.get(method.unpruned, trained), "accuracy")
        means = pick(pruned, method=label).groupby("sparsity")["accuracy"].mean()
        means = means[means.index > 0]
        if not len(means):
            sentences.append(f"{label} removed nothing, so nothing can be said of what it costs.")
            continue
        cheap = means[(means >= base - 0.01).cummin()]  # as far as no smaller part costs more
        removal = (
            f"Removing {label}s by magnitude, globally and without retraining,"
            if label in METHODS
            else f"Removing {'weights' if method.unit == 'weights' else 'channels'} by {label}"
            f"{'' if method.finetune else ', not retrained,'}"
        )
        cost = f"at most one point up to {percent(cheap.index.max())} of them" if len(cheap) else "more than one point"
        sentences.append(f"{removal} costs {cost}{'' if len(cheap) else ' at every sparsity tried'}.")
    return [" ".join(sentences)]


def _from_scratch(part: Part) -> list[str]:
    pruned, dense, methods = part.pruned, part.kind("dense"), methods_of(part.options)
    if not len(dense) or "accuracy" not in dense:
        return []
    parts = []
    for (method, asked), rows in dense[dense["accuracy"].notna()].groupby(["method", "sparsity"], sort=False):
        cut = pick(pruned, **{"method": method, ASKED: asked})
        removed = percent(cut["sparsity"].iloc[0] if len(cut) else asked)
        how = "fine-tuned" if methods[method].finetune else "not retrained"
        parts.append(
            f"{formatted(mean(rows, 'accuracy'), '.4f')} at the widths of {method} with {removed} removed "
            f"(cut and {how}: {formatted(mean(cut, 'accuracy'), '.4f')})"
        )
    text = f"Small networks that were trained from scratch, as long as the large ones, reach {'; '.join(parts)}."
    return [text] if parts else []


def _really_cut(pruned: DataFrame) -> str:
    if "cut_parameters" not in pruned:
        return ""
    really = pruned[pruned["cut_parameters"].notna()]
    half = pick(really, method="neuron", sparsity=0.5)
    text = f"{counted(len(really), 'network')} that lost channels {'was' if len(really) == 1 else 'were'} really cut"
    if "cut_difference" in really:
        text += (
            f"; on all test images {'it differs' if len(really) == 1 else 'they differ'} from the masked "
            f"{'one' if len(really) == 1 else 'ones'} by at most {formatted(float(really['cut_difference'].max()), '.1e')} (relative)"
        )
    text += "."
    if len(half):
        text += (
            f" With half of the neurons cut, {percent(mean(half, 'parameters_removed'), 0)} of the parameters are gone and a "
            f"batch of 256 takes 1/{formatted(mean(half, 'speedup_cut_256'), '.1f')} of the time; the masked network is "
            f"{formatted(mean(half, 'speedup_masked_256'), '.2f')} times as fast as the whole."
        )
    return text


def cards(part: Part) -> list[Card]:
    """Return the accuracy of the unpruned networks, and what removing half costs by two methods, paired by seed."""
    pruned = part.pruned
    if not len(pruned):
        return []
    heads = []
    for name, rows in part.unpruned.items():
        note = f"test set, {counted(len(rows), 'seed')}"
        heads.append(mean_card(name.replace(UNPRUNED, f"{UNPRUNED} accuracy", 1), rows["accuracy"], note, within=SHARE))
    sparsities = sorted(set(pruned[ASKED]))
    middle = 0.5 if 0.5 in sparsities else sparsities[len(sparsities) // 2]
    for label, method in _headed(part).items():
        rows = pruned[(pruned["method"] == label) & (pruned[ASKED] == middle) & (pruned["sparsity"] > 0)]
        changes = 100 * (rows["accuracy"] - beside(part, rows))
        if changes.notna().any():
            removed = percent(rows["sparsity"].iloc[0])
            title = f"{removed} of {label}s removed" if label in METHODS else f"{removed} removed, {label}"
            heads.append(
                mean_card(title, changes.dropna(), _how(method, rows), shape="+.2f", unit=" points", within=(-100, 100))
            )
    return heads


def _headed(part: Part) -> dict[str, Pruning]:
    """The two methods whose cost stands at the head."""
    finished = set(part.pruned["method"])
    methods = {label: m for label, m in methods_of(part.options).items() if label in finished and not m.is_random}
    usual = {label: method for label, method in methods.items() if label in ("weight", "neuron")}
    return usual if len(usual) == 2 else dict(list(methods.items())[:2])


def _how(method: Pruning, rows: DataFrame) -> str:
    """How it was removed, and what that gains where networks were really cut."""
    scored = f"{method.scope} {method.criterion}" if method.criterion else method.solver
    words_ = f"{scored}, {_trained_after(method)}"
    if method.unit == "channels" and "speedup_cut_256" in rows and rows["speedup_cut_256"].notna().any():
        speedups = rows["speedup_cut_256"].dropna()
        about = interval(speedups, within=range_of("speedup", speedups), shape=".2f")
        words_ += f"; cut, {formatted(speedups.mean(), '.2f')}× as fast{f' ({about})' if about else ''}"
    return words_


def method_caption(label: str, method: Pruning) -> str:
    """Return the caption of a method's table.

    >>> from secateur.studies.comparison.options import METHODS, ONE_SHOT, Pruning, methods_of
    >>> method_caption("weight random", METHODS["weight random"])
    'Weights removed, at random, all layers pooled; not retrained.'
    >>> method_caption("thinet, tuned 2 epochs", Pruning(solver="thinet", finetune=2))
    'Channels removed, and what stays repaired, by thinet; then fine-tuned for 2 epochs.'
    """
    unit = "Weights" if method.unit == "weights" else "Neurons" if label in METHODS else "Channels"
    if method.solver:
        return f"{unit} removed, and what stays repaired, by {method.solver}; {_trained_after(method)}."
    norm = "L2 norm of incoming weights" if method.unit == "channels" else "magnitude"
    choice = {"magnitude": f"lowest {norm}", "random": "at random"}.get(
        method.criterion, f"lowest by {method.criterion}"
    )
    where = {"global": "all layers pooled", "layer": "in each layer alone"}[method.scope]
    steps = "" if method.schedule == ONE_SHOT else f", {method.schedule} in {method.steps} steps"
    return f"{unit} removed, {choice}, {where}{steps}; {_trained_after(method)}."


def _trained_after(method: Pruning) -> str:
    if not method.finetune:
        return "not retrained"
    epochs = f"{method.finetune} epoch{'s' if method.finetune > 1 else ''}"
    return f"{'then' if method.schedule == ONE_SHOT else 'after each step'} fine-tuned for {epochs}"


def _pruning(results: Results) -> str:
    if all(label in METHODS for label in methods_of(results.options)):
        return "Pruning follows without retraining."
    return (
        f"Pruning follows; criteria and solvers look at {results.options['shown']} training images, drawn by the seed. What "
        "is fine-tuned says so in its name; it is held against unpruned networks that were fine-tuned as long."
    )


def notes(results: Results) -> list[str]:
    """Return how it was done."""
    o = results.options
    models = ", ".join(dict.fromkeys(model for _, model in grid(o)))
    held_out = percent(o["validation"]) if isinstance(o["validation"], float) else f"{o['validation']:,}"
    which = ", drawn," if any(is_local(name) for name, _ in grid(o)) else ", the last ones,"
    by_name = any(label in METHODS for label in methods_of(o))
    return [
        f"Each network ({models}) is trained for {o['epochs']} epochs of Adam (learning rate 0.001, batch {o['batch_size']}); "
        f"{held_out} of the training images{which} are the validation set, and the weights of the epoch with the lowest "
        f"validation loss are kept. {_pruning(results)} Test images are used for reporting only: no choice was made on them.",
        *([_NAMED] if by_name else []),
        "A masked network has zeros where something was removed and keeps its shapes, so it is neither smaller nor faster. "
        "A cut network is a smaller one; before it is measured, its outputs on all test images are compared with the masked network's.",
    ]
