"""Run steps in order. The steps themselves are in other packages."""
