-- Stop a run. ARGV: run, reason. Returns its state before the call and the steps to publish.
even_when_full()
local state = run_field('state')
if state ~= 'active' then return cjson.encode({state = state or 'unknown', publish = {}}) end
return cjson.encode({state = state, publish = cancel_run(ARGV[2])})
