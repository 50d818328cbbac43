"""Join the overview tables of a `criteria-shootout` report into one CSV, and print what is best as Markdown.

python benchmarks/shootout.py runs/shootout docs/results/shootout.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas

FIGURES = ("channels", "weights")
SIGNS = {"better": "better", "worse": "worse", "no difference shown": "="}


def joined(store: Path) -> pandas.DataFrame:
    """Return the rows of all overview tables; those of other sparsities have other columns."""
    files = sorted((store / "report" / "tables").glob("*-overview.csv"))
    return pandas.concat([pandas.read_csv(file) for file in files], ignore_index=True)


def markdown(rows: pandas.DataFrame, unit: str, scope: str = "layer") -> str:
    """Return one line a criterion: accuracy over sparsities on each network, mean rank, fine-tuned, verdicts, cost."""
    own = rows[(rows["unit"] == unit) & (rows["scope"] == scope)]
    means = own.pivot(index="criterion", columns="network")
    order = means["mean rank"].mean(axis=1).sort_values(kind="stable").index
    networks = list(dict.fromkeys(own["network"]))
    head = ["criterion", *networks, "mean rank", *(f"{n}, fine-tuned" for n in networks), "against random"]
    head += ["against magnitude", "forward passes"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name in order:
        one = means.loc[name]
        cells = [
            name,
            *(f"{one['accuracy over sparsities', n]:.3f}" for n in networks),
            f"{one['mean rank'].mean():.1f}",
        ]
        cells += [f"{one['fine-tuned', n]:.3f}" for n in networks]
        for column in ("against random", "against magnitude"):
            cells.append(", ".join(SIGNS.get(one[column, n], "–") for n in networks))
        cells.append(f"{one['forward passes'].mean():.2g}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Write the CSV, and print one table for channels and one for weights."""
    store, target = map(Path, sys.argv[1:])
    rows = joined(store)
    rows.to_csv(target, index=False, lineterminator="\n", float_format="%.6g")
    for unit in FIGURES:
        print(f"\n{unit}, the same fraction of every layer\n\n{markdown(rows, unit)}")


if __name__ == "__main__":
    main()
