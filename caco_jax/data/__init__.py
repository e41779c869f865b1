"""Images: sources, augmentation on the device, view recipes."""
