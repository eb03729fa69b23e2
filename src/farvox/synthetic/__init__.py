"""The synthetic voices of the demo and of the sample."""
