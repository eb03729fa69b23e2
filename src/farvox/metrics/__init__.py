"""Figures: EER, minDCF, their intervals, and the agreement of clusterings."""
