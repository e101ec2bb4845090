"""Where bytes live: local folders and remote stores."""
