"""What is said of predictions: metrics, intervals, reports. And transformers' problem types, without an import."""

CLASSES, LABELS, VALUES = "single_label_classification", "multi_label_classification", "regression"
