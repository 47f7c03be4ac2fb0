"""The options of ``main.py``: the parser, its checks, and the settings that both end in. No torch is imported here."""
