"""How a run goes: flags, models, the Trainer, what a run leaves behind."""
