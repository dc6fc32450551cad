"""The command ``toponas-fx``: what it understands, and the model that its argument names.

May use: all of the package, imported once it is needed: usage is told at once.
"""
