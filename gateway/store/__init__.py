"""Everything that knows SQL.

Contract, for every function here that takes a connection:

- it runs inside the transaction of that connection and never commits: `engine.Database` does;
- keys grow with time, and `shard` stands in every primary key and unique index, so that the tables can be
  distributed on it;
- no statement locks rows of several shards in an order of its own: rows are written sorted by key;
- where a trace has no id, '' is stored and not NULL, so that unique indexes hold for it too.
"""
