"""The errors that reach a user as one sentence."""


class InputError(ValueError):
    """A caller's mistake: a bad setting, file or folder. The command ends with exit code 2."""


class ArchiveError(Exception):
    """A zoo that is damaged or incomplete. The command ends with exit code 1."""


class WorkError(Exception):
    """Work that failed through no fault of its input. The command ends with exit code 1."""
