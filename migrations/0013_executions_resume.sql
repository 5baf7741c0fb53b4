-- What a person answered for a step that waits for one: {"action", "data" or "message"}. The worker that has the execution obeys it, and takes it away with the write that
-- records what came of it.
-- up
ALTER TABLE execution_journal ADD COLUMN resume TEXT;
-- down
ALTER TABLE execution_journal DROP COLUMN resume;
