"""The auditors' pages: the history of all pushes, each push to its last file, the ledger, and whether the record is sound.

They only read. Who is no auditor is told the same as about a page that is not there.
"""
