"""How bytes are laid out: headers, pixels and tables of FITS files, arrays of Zarr stores."""
