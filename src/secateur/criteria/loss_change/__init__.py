"""The change of the loss when a unit alone is removed."""
