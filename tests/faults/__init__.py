"""Proof by fault injection: every file-system operation of what must survive a kill, killed before and after, one after the other."""
