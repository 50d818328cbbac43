"""How cells are computed: the driver, executors, progress and trackers."""
