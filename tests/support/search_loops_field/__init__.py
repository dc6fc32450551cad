"""Supernets and search loops as the field writes them, in this project's own words; a loop takes a model as it is."""
