"""What lets somebody who was not there believe the record: trees of hashes, checkpoints, receipts."""
