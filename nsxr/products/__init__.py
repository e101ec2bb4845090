"""Read, write, describe and check products of the observatory and of nsxr."""
