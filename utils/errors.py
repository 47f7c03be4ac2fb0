"""Errors that a user can mend: one line each, naming what was found, what was expected and a value that works."""


class UserError(Exception):
    """Wrong input. ``main.py`` prints its text as one line and exits with status 2."""


class OptionError(UserError):
    """An option has a wrong value, contradicts another one, or asks for what this program cannot do."""


class DataError(UserError):
    """A data set, an image or a label on disk is missing, damaged or not of the expected form."""


class ClassSetError(DataError):
    """Classes that cannot be: two of one name, color or id, none at all, or values out of range."""


class UnreachableError(DataError):
    """A file of a data set cannot be read at the moment; its file system may come back. Its content is not to blame."""


class WeightsError(UserError):
    """A weight file is missing, unsafe, damaged or of another network."""


class CheckpointError(UserError):
    """A training cannot be resumed from what the save folder holds."""


class TrainingError(UserError):
    """A training cannot go on, for example since its loss is no longer a number."""


class IncompleteError(UserError):
    """Part of the work is done and kept, and the rest cannot be. ``main.py`` exits with status 1."""


class StoppedError(Exception):
    """SIGTERM asked to stop, and what was done is on disk; the text says what that is, or how to go on."""


class LostPeerError(Exception):
    """Another one of the processes that train together went away."""
