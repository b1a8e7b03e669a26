"""What several notebooks compute over many images: functions without a command line."""
