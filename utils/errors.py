"""Errors that a user can fix: one line each, with what was found, what was expected and a value that works."""


class UserError(Exception):
    """Wrong input. ``main.py`` prints the message as one line and exits with status 2."""


class OptionError(UserError):
    """An option has a wrong value, contradicts another one, or is not supported here."""


class DataError(UserError):
    """A data set, an image or a label on disk is missing, damaged or not of the expected form."""


class ClassSetError(DataError):
    """A class set is invalid: empty, with duplicate names, colors or ids, or with values out of range."""


class UnreachableError(DataError):
    """A file of a data set cannot be read at the moment, for reasons of its file system and not of its content."""


class WeightsError(UserError):
    """A weight file is missing, unsafe, damaged or of another network."""


class ScoresError(UserError):
    """The scores of a network are NaN or infinite, so that its labels would mean nothing."""


class CheckpointError(UserError):
    """A training cannot be resumed from the files in the save folder."""


class TrainingError(UserError):
    """A training cannot continue, for example since its loss is NaN."""


class IncompleteError(UserError):
    """Part of the work is done and kept, the rest failed. ``main.py`` exits with status 1."""


class StoppedError(Exception):
    """SIGTERM arrived, and the work so far is on disk; the message says what was saved, or how to resume."""


class LostPeerError(Exception):
    """Another process of the process group ended."""
