"""Products of the observatory and of nsxr: reading, writing, describing and checking them."""
