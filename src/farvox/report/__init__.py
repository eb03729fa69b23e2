"""Plots, tables of text, and the report in one HTML file."""
