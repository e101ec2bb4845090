"""Read and write bytes in local folders and remote stores."""
