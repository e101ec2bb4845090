"""Read and write the bytes of files: headers, pixels and tables of FITS files, arrays of Zarr stores."""
