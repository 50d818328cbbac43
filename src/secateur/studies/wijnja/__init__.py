"""The studies after S. Wijnja, E. Wierstra and T. Hamburger, 2020."""

from secateur.studies.wijnja import tickets

__all__ = ["STUDIES"]

STUDIES = (tickets.DENSE, tickets.CONV)
