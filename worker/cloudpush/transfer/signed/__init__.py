"""Uploads with signed URLs: an executor of our own, since no rclone can send to what others signed."""
