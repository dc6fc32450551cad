"""Choosing among exact alternatives by measuring them, on the model and the device that a search has.

``steps`` measures steps that alternate; ``autotune`` asks one question after the other and keeps the fastest answer;
``cache`` remembers it in the user's folder.

May use: ``compiling``, ``runtime`` and below.
"""

from toponas_fx.tuning.cache import Tuned

__all__ = ["Tuned"]
