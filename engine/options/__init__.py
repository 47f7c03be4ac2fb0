"""The options of ``main.py``: the parser, the checks, and the settings that they result in. Imports no torch."""
