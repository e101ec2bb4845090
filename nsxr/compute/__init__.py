"""Where dask is: kernels on blocks, layouts of chunks, passes over graphs, progress, clusters."""
