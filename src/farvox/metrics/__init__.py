"""How good the decisions are: EER, minDCF."""
