"""The paper in pure torch: streams, priors, masks, blending."""
