"""Search supernets of well-known spaces, written in the idioms that the field's search code uses."""
