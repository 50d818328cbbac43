"""M. Fathollahi, 2022: weight pruning and neuron pruning of a five-layer network on Fashion-MNIST."""

from __future__ import annotations

from secateur.lab.published import Published
from secateur.lab.report import Report
from secateur.lab.study import Results, Source, Study
from secateur.studies.comparison.cells import cells, options
from secateur.studies.comparison.pages import pages

__all__ = ["STUDY"]

SOURCE = Source("fathollahi", "M. Fathollahi", 2022, "Comparing performance of two pruning on Fashion-MNIST data set")

# Figures 6 and 7 of the text: accuracy and loss on the test set; None where the printed line does not show the number.
PUBLISHED = Published(
    baseline=(0.8851, 0.3260),
    points={
        "weight": {
            0.2: (None, 0.3259),
            0.3: (None, 0.3285),
            0.4: (None, 0.3293),
            0.5: (0.8787, 0.3385),
            0.6: (0.8748, 0.3598),
            0.7: (0.8555, 0.4091),
            0.8: (None, 0.5658),
            0.99: (None, 2.3011),
        },
        "neuron": {
            0.2: (None, 0.3274),
            0.4: (None, 0.6844),
            0.5: (None, 1.3022),
            0.6: (0.4634, 1.8125),
            0.7: (None, 2.1048),
            0.8: (None, 2.2741),
            0.9: (0.1000, 2.3026),
            0.99: (0.1000, 2.3026),
        },
    },
    notes=[
        "The published figures are read from the text's figures 6 and 7. Figure 6 prints ten losses after the unpruned "
        "one for nine percentages (20 to 90 and 99): the first seven are taken for 20 to 80 % and the last for 99 %; of "
        "0.9952 and 1.4832 one belongs to 90 %, and neither is shown. In figure 7 the loss at 30 % cannot be read.",
        "The text's neuron pruning is read as global: its losses at 40 to 80 % are those of pooled neurons, far above "
        "those of pruning each layer alone. It keeps no minimum in a layer, so at 90 % a layer is empty and the network "
        "answers the same for every image (accuracy 0.1000, loss ln 10).",
    ],
)


def _pages(results: Results) -> Report:
    return pages(results, "Weight pruning and neuron pruning on Fashion-MNIST", PUBLISHED)


STUDY = Study(
    name="fathollahi",
    title="Weight pruning and neuron pruning on Fashion-MNIST",
    source=SOURCE,
    summary="Two prunings of a 784-1000-1000-500-200-10 network at 5 to 99 %, with the neuron-pruned networks really cut.",
    cells=lambda settled: cells("fathollahi", settled),
    pages=_pages,
    # The text pools all neurons in one dictionary that knows no layers, so a layer may lose its last one.
    defaults=options(minimum=0, dense=[0.5]),
    best=("accuracy", "max"),
)
