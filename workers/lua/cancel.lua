-- Stop a run. ARGV: run, reason. Answers its state before and what to publish.
even_when_full()
local state = run_field('state')
if state ~= 'active' then return cjson.encode({state = state or 'unknown', publish = {}}) end
stop_run(ARGV[2])
publish({kind = 'run', state = 'stopping'})
if run_field('mode') == 'session' then
  local lock, waiters = lock_keys(run_field('lock') or '')
  if not holds_lock(lock) then
    -- it never had its turn at the warehouse and no longer needs one: whoever is free may end it
    redis.call('LREM', waiters, 0, RUN_ID)
    unwatch('@session')
    set_state('@session', 'blocked')
    redis.call('HSET', RUN, 'mode', 'message')
  end
end
close_when_done()
return cjson.encode({state = state, publish = dispatch()})
