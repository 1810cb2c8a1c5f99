"""Errors that a user can mend: shown as one sentence, never as a traceback."""


class UserError(Exception):
    """What is wrong and what to do about it, in one or two sentences."""


class ConfigError(UserError):
    """A settings file, an override or a command-line value is not usable."""


class DataError(UserError):
    """The images or their labels are not usable."""


class WeightsError(UserError):
    """A weights file is missing, damaged or not what it claims to be."""


class BusyError(UserError):
    """Another run holds the artifacts folder."""


class BundleError(UserError):
    """A bundle is missing, torn, altered or of another format."""
