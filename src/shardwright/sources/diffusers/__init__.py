"""Models of diffusers: a pipeline's transformer, UNet or autoencoder, from its own folder."""
