"""What users hold: recurrent layers, embeddings, linear maps."""
