"""CloudPush pushes datasets into users' own cloud buckets and proves what it did."""
