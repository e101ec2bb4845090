"""Stage 2: corrections of slits, one in each file."""
