"""The shell around the pure core: small flax.linen modules."""
