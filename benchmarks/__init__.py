"""Speed and memory, as ratios: medians of alternating runs, never asserted by a test."""
