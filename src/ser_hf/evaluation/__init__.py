"""What is said of predictions: metrics, intervals, reports."""
