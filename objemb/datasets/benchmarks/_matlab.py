"""Reading MATLAB files as plain values."""

from __future__ import annotations

from pathlib import Path

from objemb.datasets.benchmarks._problems import BadGroundTruthError


def read_matlab(file: Path) -> dict[str, object]:
    """Structs as dicts, cells as lists, and arrays without their axes of length one.

    A list of one element becomes that element, and an empty one an array without elements.

    Raises:
        FileNotFoundError: The file does not exist.
        BadGroundTruthError: The file is damaged.
        ImportError: SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError("MATLAB files need scipy: pip install 'objemb[methods]'") from error
    try:
        data = loadmat(str(file), simplify_cells=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file may cause any error
        reason = " ".join(str(error).split())[:300]
        raise BadGroundTruthError(f"{file}: expected a MATLAB file, found {type(error).__name__}: {reason}") from error
    return {key: value for key, value in data.items() if not key.startswith("__")}
