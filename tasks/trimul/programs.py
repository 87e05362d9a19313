"""Texts of programs that run in the sandbox: the driver, and the naive loop that speed-ups are counted from."""

from pathlib import Path

DRIVER = Path(__file__).with_name("driver.py").read_bytes()
NAIVE = Path(__file__).with_name("naive.py").read_text()
EAGER = Path(__file__).with_name("eager.py").read_text()
