"""Tests against a real Slurm, the cluster in a box of box.py."""
