"""Around the UNet: guider, sampler, conditioning, noise, given layers, latents."""
