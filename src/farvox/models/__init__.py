"""Networks that turn features into embeddings, and the heads that train them."""
