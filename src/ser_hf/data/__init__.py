"""What is learned from: corpora, splits, batches."""
