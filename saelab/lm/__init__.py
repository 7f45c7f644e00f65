"""Language-model access: models behind TransformerLens' bridge, text, windows, masks, splicing."""
