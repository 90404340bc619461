"""Getting recordings ready: checks of what is there, and other formats made manifests."""
