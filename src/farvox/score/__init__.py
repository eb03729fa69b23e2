"""Trials and scores."""

from typing import Literal

Channels = Literal["mean-norm", "mean", "sum", "score-mean", "best", "weighted", "expand"]
"""Rules that make one score of the utterances of a side."""
QUALITY_RULES = ("best", "weighted")
"""Those of them that need the quality of each utterance."""
ChannelIds = Literal["enrol", "test", "both", "neither"]
"""The side whose ids mean their channels where an utterance of that id is there too."""
Norm = Literal["s-norm", "as-norm"]
"""Ways to normalise scores by a cohort."""
