"""What a cut model should compute, worked out by hand: it shares nothing with the library's own verification but the sites."""
