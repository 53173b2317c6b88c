"""Figures that one can take hold of: ipywidgets that redraw a picture. One module per control."""
