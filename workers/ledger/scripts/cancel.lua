-- Stop a run. ARGV: run, reason. Answers its state before and what to publish.
even_when_full()
local state = run_field('state')
if state ~= 'active' then return cjson.encode({state = state or 'unknown', publish = {}}) end
return cjson.encode({state = state, publish = cancel_run(ARGV[2])})
