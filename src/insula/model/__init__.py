"""The words of the product: values without I/O that every other layer may import."""
