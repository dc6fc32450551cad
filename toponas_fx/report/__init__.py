"""What was done to a model, in words: what was gained, each kind of edge as algebra, what was refused and why.

``report`` is the object that users get; ``building`` joins what the passes did to the edges that they did it to;
``parts`` are its pieces, ``text`` and ``details`` write them, ``refusal_advice`` knows what a user can do about a
refusal.

May use: ``rewriting``, ``analysis``, ``ir`` and below; not ``capture``, not ``passes``.
"""

from toponas_fx.report.report import Report

__all__ = ["Report"]
