"""Taking a model to another domain: clustering of unlabelled speech, confidence in pseudo-labels."""
