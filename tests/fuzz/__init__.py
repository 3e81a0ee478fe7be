"""Targets and damage, for the tests here and for `scripts/fuzz.py`."""
