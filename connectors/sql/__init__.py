"""The SQL connector: what an administrator declared of a database's tables, and the walk over them.

Only `connectors.sql.tables` knows SQLAlchemy.
"""
