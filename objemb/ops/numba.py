"""Numba, the optional compiler of loops."""

from __future__ import annotations

import logging
from types import ModuleType

logger = logging.getLogger(__name__)


def numba_library(what: str) -> ModuleType | None:
    """The module ``numba``, or None if it is not installed or refuses the installed NumPy.

    Its import takes half a second, and compiling a loop a tenth and more, so it is asked for only after as much work as
    pays for that.

    Args:
        what: What is done by NumPy or PyTorch without it, for the log.
    """
    try:
        import numba
        import numba.extending
    except ImportError:
        return None
    except Exception as error:  # it refuses versions of NumPy that it does not know
        logger.info("%s without Numba: %s", what, error)
        return None
    library: ModuleType = numba
    return library
