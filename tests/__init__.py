"""Tests, importable so that spawned ranks find their functions."""
