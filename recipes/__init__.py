"""Recipes: one file, one way to train. Each is a straight spine; run them with `accelerate launch`."""
