"""Trials and scores."""
