"""Attacks on the sandbox, as data. `python -m tests.engine.sandbox.attacks MODE` runs them and prints JSON."""
