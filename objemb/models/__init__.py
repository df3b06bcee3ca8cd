"""Models: build one from a config, save it as a folder, open it, describe with it."""

from objemb.models.build import build_model, load_model, save_model
from objemb.models.fitting import fit_learned_whitening, fit_parts, fit_whitening
from objemb.models.model import Model

__all__ = ["Model", "build_model", "fit_learned_whitening", "fit_parts", "fit_whitening", "load_model", "save_model"]
