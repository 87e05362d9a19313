"""A coding tool for tests: a script that reads its directory, tries drafts, and hands in."""
