"""The modes of ``main.py``, one file each: from settings to the output and the files of a run."""
