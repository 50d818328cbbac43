"""Exact loss changes of chains of layers, with the work shared between units."""
