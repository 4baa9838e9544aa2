-- Stop a run. ARGV: run, reason. Answers its state before and what to publish.
local state = run_field('state')
if state ~= 'active' then return cjson.encode({state = state or 'unknown', publish = {}}) end
stop_run(ARGV[2])
publish({kind = 'run', state = 'stopping'})
-- a run whose first step nobody took yet ends with that step as its close
close_when_done()
return cjson.encode({state = state, publish = dispatch()})
