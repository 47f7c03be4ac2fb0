"""Files that operating systems leave beside a user's: they are nobody's data."""

# In lower case.
_WINDOWS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information")
_MACOS = (".ds_store", ".localized", ".spotlight-v100", ".trashes", ".fseventsd", "icon\r", "__macosx")
_OTHERS = ("@eadir", "#recycle", "lost+found", ".directory")  # network drives, file systems, desktops
_NAMES = frozenset((*_WINDOWS, *_MACOS, *_OTHERS))


def is_system_file(name: str) -> bool:
    """Whether a file or folder of that name was left by a system, such as ``._a.png``, ``.DS_Store``, ``Thumbs.db``."""
    return name.startswith("._") or name.lower() in _NAMES


def is_visible(name: str) -> bool:
    """Whether a file or folder of that name is neither hidden nor left by a system."""
    return not name.startswith(".") and not is_system_file(name)
