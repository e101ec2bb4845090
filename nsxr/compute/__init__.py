"""Use dask: kernels on blocks, layouts of chunks, passes over graphs, progress, clusters. Only this package does so."""
