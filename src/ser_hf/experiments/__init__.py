"""The commands that run a recipe many times, or set such runs side by side: cv, cross, compare."""
