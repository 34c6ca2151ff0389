"""One corpus = one file = one `--dataset` value. This folder is the registry."""
