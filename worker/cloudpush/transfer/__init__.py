"""Moving bytes: rclone, supervised and spoken to over a private socket."""
