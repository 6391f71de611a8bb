"""What changes a root, and bundles. Whatever changes something plans first, which only reads, and then applies."""
