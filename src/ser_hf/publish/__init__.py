"""The commands that make what others get: published corpora and models, checkpoints made whole."""
