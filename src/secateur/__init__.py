"""secateur: find what a trained network does not need, cut it out for real, and show what it cost."""
