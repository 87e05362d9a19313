"""Single-cell denoising by molecular cross-validation: data, splits, metrics, rules."""
