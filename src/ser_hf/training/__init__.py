"""A run: its flags, data, model, Trainer and results."""
