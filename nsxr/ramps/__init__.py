"""Stage 1: corrections of ramps, one in each file."""
