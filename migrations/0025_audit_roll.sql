-- The roll of all chains is a head of its own, named '*': how many there are, and a sum that only the key can make. A whole chain that is gone, head and rows, is missed
-- there. Chains that are older than the roll are taken on it once, at the next start: -1 asks for that.
-- up
INSERT INTO audit_heads (chain, seq, seal, mac) SELECT '*', -1, '', '' WHERE EXISTS (SELECT 1 FROM audit_heads);
-- down
DELETE FROM audit_heads WHERE chain = '*';
