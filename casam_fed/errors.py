"""What casam-fed raises on bad input: one sentence that names the cause and the mend.

Every command line catches `CasamError`, prints its message and exits with code 1. Anything else that escapes is a defect
of ours and keeps its traceback.
"""

__all__ = [
    "BackboneError",
    "BankError",
    "CasamError",
    "ConfigError",
    "DataError",
    "EnrolmentError",
    "ExchangeError",
    "ForkedError",
    "KeyFileError",
    "LogError",
    "NewerFormatError",
    "ReleaseError",
    "SignatureError",
    "SimulationError",
    "StorageError",
    "SupervisionError",
    "TrainingError",
    "UnsignedError",
    "WithheldError",
]


class CasamError(Exception):
    """Base of all errors a user can mend; `str(error)` is what the user reads."""


class ConfigError(CasamError):
    """A YAML file or a run option is wrong."""


class DataError(CasamError):
    """Images or masks are missing, unreadable or do not fit together."""


class BackboneError(CasamError):
    """A backbone is unknown, absent, or its checkpoint is not the pinned one."""


class StorageError(CasamError):
    """A file could not be written or read back whole."""


class TrainingError(CasamError):
    """Training cannot go on, or a checkpoint belongs to another run."""


class ReleaseError(CasamError):
    """Bytes offered as a release do not follow the release schema."""


class BankError(CasamError):
    """The bank refuses an operation or finds itself damaged."""


class EnrolmentError(CasamError):
    """A request or a welcome is not what it should be, or belongs to another site or federation."""


class ExchangeError(CasamError):
    """A message from the other side is not what was agreed."""


class KeyFileError(CasamError):
    """A key is missing, damaged, readable for others, or of another kind."""


class SignatureError(CasamError):
    """Something signed is not what was signed, or not by whom it should be."""


class SimulationError(CasamError):
    """A simulated federation did not finish."""


class SupervisionError(CasamError):
    """A process that has to run does not, or one that must run once runs already."""


class WithheldError(CasamError):
    """Nothing is told, because it would tell of too few people."""


class LogError(CasamError):
    """A log, or a proof about one, is damaged or does not show what it should."""


class ForkedError(LogError):
    """A log that was offered does not continue the one that was seen before."""


class UnsignedError(LogError):
    """A checkpoint bears no signature of the key in question."""


class NewerFormatError(CasamError):
    """Something was written by a newer version in a form that this one does not know."""
