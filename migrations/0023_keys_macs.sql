-- Keys that MACs are made with (audit chain, recovery codes): derived once, sealed under SECRET_KEY, so that SECRET_KEY can be changed and they stay.
-- up
CREATE TABLE mac_keys (
    purpose TEXT PRIMARY KEY,
    sealed  TEXT NOT NULL
);
-- down
DROP TABLE mac_keys;
