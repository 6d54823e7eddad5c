"""Models: small flax.linen modules around the pure functions of rnnjax."""
