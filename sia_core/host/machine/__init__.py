"""The machine under a run: proxies, processors, open files, directories for temporary data.

Each module settles one condition and offers a check of it, which `checks` lists. A run and `sia doctor` call the same
checks, so that what stops a run is seen beforehand.
"""
