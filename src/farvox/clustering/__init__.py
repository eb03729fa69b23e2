"""Clustering of embeddings: k-means, hierarchy, and the number of clusters."""
