"""One corpus = one file = one `--dataset` value. The folder is the registry."""
