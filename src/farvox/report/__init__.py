"""What people look at: DET curves, histograms, a one-file report."""
