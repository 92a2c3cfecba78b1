"""Alembic's environment for the store: one file in ``versions`` for each change of the schema.

A store is upgraded when it is opened, in one transaction. To change the schema, change
``server/store/models.py`` and add a file to ``versions`` that names the revision before it;
the tests say what is missing, on SQLite and on PostgreSQL. A released migration is never changed.
There are no downgrades: restore a backup instead.
"""
