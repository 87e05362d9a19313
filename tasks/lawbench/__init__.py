"""LawBench: one of 191 criminal charges for a case; data, splits, library, verdicts, corpus figures."""
