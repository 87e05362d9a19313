"""placeholder"""
from sia_core.lab import Lab
from tasks.trimul.candidate import Program
from tasks.trimul.measure import Measured
from tasks.trimul.shapes import Recipe


def measure(program: Program, recipe: Recipe, lab: Lab) -> Measured:
    raise NotImplementedError
