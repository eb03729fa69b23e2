"""Figures: EER, detection costs, the ROC curve, their intervals, and the agreement of clusterings."""
