"""What a model does, whole or under many keep masks: its losses, its right answers, its outputs."""
