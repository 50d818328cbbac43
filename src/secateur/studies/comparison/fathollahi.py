"""M. Fathollahi, 2022: weight pruning and neuron pruning of a five-layer network on Fashion-MNIST."""

from __future__ import annotations

from secateur.lab.plan.study import Publication
from secateur.lab.show.published import Published
from secateur.studies.comparison.declare import comparison
from secateur.studies.comparison.options import OPTIONS
from secateur.studies.kit.published import published

__all__ = ["STUDY"]

NOTES = [
    "The published figures are read from the text's figures 6 and 7. Figure 6 prints ten losses after the unpruned "
    "one for nine percentages (20 to 90 and 99): the first seven are taken for 20 to 80 % and the last for 99 %; of "
    "0.9952 and 1.4832 one belongs to 90 %, and neither is shown. In figure 7 the loss at 30 % cannot be read.",
    "The text's neuron pruning is read as global: its losses at 40 to 80 % are those of pooled neurons, far above "
    "those of pruning each layer alone. It keeps no minimum in a layer, so at 90 % a layer is empty and the network "
    "answers the same for every image (accuracy 0.1000, loss ln 10).",
]

STUDY = comparison(
    "fathollahi",
    "Weight pruning and neuron pruning",
    "Two prunings of a 784-1000-1000-500-200-10 network at 5 to 99 %, with the neuron-pruned networks really cut.",
    source=Publication(
        "fathollahi", "M. Fathollahi", 2022, "Comparing performance of two pruning on Fashion-MNIST data set"
    ),
    # The text pools all neurons in one dictionary that knows no layers, so a layer may lose its last one.
    options=OPTIONS.changed(minimum=0, dense=[0.5]),
    published=Published(**published("comparison")["fathollahi"], notes=NOTES),
)
