"""How an embedding is matched to a task, or to `unknown`: pooling, the two routers, their thresholds, and routes.

Works on pooled embeddings alone; which layer then draws the masks is decided in `inference`.
"""
