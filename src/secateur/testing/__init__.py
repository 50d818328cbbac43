"""Toy models, and the conformance suites that a new method inherits.

The suites need pytest (`pip install 'secateur[dev]'`), so they are imported from their own modules:
`from secateur.testing.conformance import CriterionConformance`.
"""

from secateur.testing.toys import TOYS, Toy, same_state, snapshot

__all__ = ["TOYS", "Toy", "same_state", "snapshot"]
