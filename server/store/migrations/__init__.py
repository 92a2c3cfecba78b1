"""Alembic's environment for the store: one file a change of the schema, in ``versions``.

A store is upgraded when it is opened, in one transaction. To change the schema, change
``server/store/models.py`` and add a file to ``versions`` that names the revision before it;
the tests say what is missing, on SQLite and on PostgreSQL. A migration that was released is
never changed. There is no way down: a store goes back by its backup.
"""
