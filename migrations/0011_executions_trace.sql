-- The trace (W3C Trace Context) of the request that began an execution: what its steps send out goes on with it, also after a restart. NULL: nobody traces it.
-- up
ALTER TABLE executions ADD COLUMN traceparent TEXT;
ALTER TABLE executions ADD COLUMN tracestate TEXT;
-- down
ALTER TABLE executions DROP COLUMN tracestate;
ALTER TABLE executions DROP COLUMN traceparent;
