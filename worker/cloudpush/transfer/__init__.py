"""Moving bytes: rclone."""
