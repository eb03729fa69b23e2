"""The synthetic voices of the demo."""
